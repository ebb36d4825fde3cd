"""Every option of JAX that changes the numbers of a run is fixed or recorded."""

import json
from pathlib import Path

import jax
import pytest
from processes import finished, start

from frepo_scale.parallel.environment import RECORDED
from frepo_scale.parallel.pinned import PINNED

PROGRAM = Path(__file__).parent / "options_run.py"
SETTINGS = ("jax_default_matmul_precision",)  # of the recipe: MATMUL_PRECISION

# The options that change no number, by reason. An option of a later JAX belongs in one of the
# three lists: fixed, recorded, or here.
HARMLESS = {
    "what is logged, printed or dumped": """
        jax_captured_constants_report_frames jax_captured_constants_warn_bytes
        jax_compiler_detailed_logging_min_ops jax_debug_log_modules jax_distributed_debug
        jax_dump_ir_modes jax_dump_ir_to jax_explain_cache_misses
        jax_hlo_source_file_canonicalization_regex jax_include_debug_info_in_dumps
        jax_include_full_tracebacks_in_locations jax_log_checkpoint_residuals jax_log_compiles
        jax_logging_level jax_pallas_verbose_errors jax_pprint_use_color
        jax_send_traceback_to_runtime jax_source_url_schema jax_traceback_filtering
        jax_traceback_in_locations_limit jax_tracer_error_num_traceback_frames
        jax_mosaic_unzip_debug_locations""",
    "checks, which end the program": """
        check_vma jax_allow_f16_reductions jax_array_garbage_collection_guard jax_auto_pcast
        jax_check_proxy_envs jax_check_static_indices jax_check_tracer_leaks jax_debug_infs
        jax_debug_key_reuse jax_debug_leaked_clients_on_clear_backends jax_debug_nans
        jax_disable_bwd_checks jax_disable_vmap_shmap_error jax_disallow_mesh_context_manager
        jax_enable_checks jax_error_checking_behavior_divide jax_error_checking_behavior_nan
        jax_error_checking_behavior_oob jax_experimental_unsafe_xla_runtime_errors
        jax_legacy_prng_key jax_mutable_array_checks jax_no_collectives jax_no_execution
        jax_no_tracing jax_pallas_enable_debug_checks jax_raise_on_ppermute_sort_diff
        jax_thread_guard jax_transfer_guard jax_transfer_guard_device_to_device
        jax_transfer_guard_device_to_host jax_transfer_guard_host_to_device""",
    "where compiled programs are stored": """
        jax_compilation_cache_check_contents jax_compilation_cache_dir
        jax_compilation_cache_include_metadata_in_key jax_compilation_cache_max_size
        jax_enable_compilation_cache jax_persistent_cache_enable_xla_caches
        jax_persistent_cache_min_compile_time_secs jax_persistent_cache_min_entry_size_bytes
        jax_raise_persistent_cache_errors jax_remove_custom_partitioning_ptr_from_cache_key
        jax_share_binary_between_hosts jax_share_binary_between_hosts_timeout_ms""",
    "how processes connect": """
        jax_cpu_get_global_topology_timeout_minutes jax_cpu_get_local_topology_timeout_minutes
        jax_cross_host_transfer_socket_address jax_cross_host_transfer_timeout_seconds
        jax_cross_host_transfer_transfer_size jax_cross_host_transport_addresses
        jax_distributed_verify_secure_credentials jax_enable_preemption_service
        jax_enable_recoverability jax_force_dcn_cross_host_transfers jax_mtls_ca_file
        jax_mtls_cert_file jax_mtls_key_file jax_mtls_peer_uri_prefix""",
    "which devices there are: their kind and number are recorded": """
        jax_backend_target jax_cuda_visible_devices jax_num_cpu_devices jax_oneapi_visible_devices
        jax_platform_name jax_platforms jax_rocm_visible_devices jax_xla_backend""",
    "when and how arguments are passed to programs": """
        jax_cpu_enable_async_dispatch jax_use_cpp_shard_args""",
    "the type of keys that jax.random.PRNGKey makes": "jax_enable_custom_prng",
    "export to other programs": """
        jax2tf_associative_scan_reductions jax2tf_default_native_serialization
        jax_export_calling_convention_version jax_export_deserialize_expired_versions
        jax_export_ignore_forward_compatibility jax_serialization_version""",
    "kernels written in Pallas, of which there are none": """
        jax_mosaic_allow_hlo jax_pallas_auto_assign_collective_ids
        jax_pallas_auto_assign_collective_ids_limit jax_pallas_poison_buffers
        jax_use_emit_pipeline_primitive""",
}
# Most of these end the program: toggled together, one would hide the others.
ALONE = "checks, which end the program"
# Other values than the present one cannot be tried in a program that goes on.
UNTRIED = {"jax_logging_level", "jax_check_tracer_leaks", "jax_no_execution", "jax_no_tracing"}


def harmless():
    return [name for names in HARMLESS.values() for name in names.split()]


def test_every_option_of_jax_is_fixed_recorded_or_without_effect():
    listed = [*PINNED, *RECORDED, *harmless(), *SETTINGS]
    assert len(listed) == len(set(listed))
    assert set(jax.config.values) - set(listed) == set()


def test_the_defaults_of_recorded_options_are_those_of_jax(monkeypatch):
    """Otherwise every run would be recorded as one with unusual options."""
    code = "import jax, json; print(json.dumps(jax.config.values, default=str))"
    for name in RECORDED:
        monkeypatch.delenv(name.upper(), raising=False)
    process = start("-c", code, devices=1)
    values = json.loads(finished(process).splitlines()[-1])
    assert {n: values[n] for n in RECORDED if n in values} == {
        n: v for n, v in RECORDED.items() if n in values
    }


@pytest.mark.slow
def test_options_are_toggled_around_an_outer_step():
    tried = {
        reason: [n for n in names.split() if n in jax.config.values and n not in UNTRIED]
        for reason, names in HARMLESS.items()
    }
    alone = [*(name for name in PINNED if name in jax.config.values), *tried.pop(ALONE)]
    process = start(PROGRAM, *alone, *map(",".join, filter(None, tried.values())), devices=1)
    line = finished(process).splitlines()[-1]
    found = json.loads(line.removeprefix("found "))
    assert found.pop("at the end") == "same"
    fixed = {name: result for name, result in found.items() if name.partition("=")[0] in PINNED}
    for name, (_, with_pins) in fixed.items():
        assert with_pins == "same", name
    # Enough of them matter that the step is a test of the others.
    assert sum(without == "changed" for without, _ in fixed.values()) >= 5
    changed = [name for name in found.keys() - fixed.keys() if found[name] == "changed"]
    assert changed == []
    assert sum(found[name] == "same" for name in found.keys() - fixed.keys()) >= 40
