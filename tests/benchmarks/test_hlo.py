"""Counting in the text of a program compiled for a GPU."""

from gpu_parts.hlo import NETS, counts, frames_of

TEXT = """HloModule jit_step, is_scheduled=true

FileNames
1 "/x/frepo_scale/distill/step.py"
2 "/x/frepo_scale/regression/ridge.py"
3 "/x/site-packages/jax/numpy.py"
4 "/x/frepo_scale/models/convnet.py"

FunctionNames
1 "step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1 end_line=1 column=4 end_column=10}
2 {file_name_id=2 function_name_id=1 line=2 end_line=2 column=4 end_column=10}
3 {file_name_id=3 function_name_id=1 line=3 end_line=3 column=4 end_column=10}
4 {file_name_id=4 function_name_id=1 line=4 end_line=4 column=4 end_column=10}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=2}
5 {file_location_id=3 parent_frame_id=5}

%fused (p: f32[2,8,8,4]) -> f32[2,4,8,8] {
  %p = f32[2,8,8,4]{3,2,1,0} parameter(0)
  ROOT %transpose.1 = f32[2,4,8,8]{3,2,1,0} transpose(%p), dimensions={0,3,1,2}
}

ENTRY %main (a: f64[4,4]) -> f64[4,4] {
  %a = f64[4,4]{1,0} parameter(0)
  %kernel = f32[3,3,4,8]{3,2,1,0} transpose(%k), dimensions={1,2,3,0}
  %c = (f32[2,8,8,4]{3,2,1,0}, u8[0]{0}) custom-call(%x), custom_call_target="__cudnn$convForward"
  %f = f32[2,4,8,8]{3,2,1,0} fusion(%c), kind=kLoop, calls=%fused
  %l = f64[4,4]{1,0} custom-call(%a), custom_call_target="potrf", metadata={stack_frame_id=2}
  %dot = f64[4,4]{1,0} dot(%l, %l), metadata={op_name="jit(step)/dot" stack_frame_id=3}
  %wide = f64[4]{0} convert(%x), metadata={op_name="jit(step)/convert" stack_frame_id=5}
  %sent = (f32[4]{0}, u32[], token[]) send(%x, %token), channel_id=1
  ROOT %sum = f64[4,4]{1,0} add(%dot, %dot), metadata={op_name="jit(step)/add" stack_frame_id=1}
}
"""


def test_frames_below_a_file_are_found_through_their_parents():
    assert frames_of(TEXT, ["/frepo_scale/regression/"]) == {2, 3}
    assert frames_of(TEXT, NETS) == {4, 5}
    assert frames_of(TEXT, ["/nowhere/"]) == set()


def test_counts():
    found = counts(TEXT)
    assert (found.convolutions, found.fusions, found.factorisations) == (1, 1, 1)
    assert found.transposes == 1  # that of the kernel is not of activations
    assert found.float64_in_nets == 1
    assert found.host == 1
    assert found.calls == {"__cudnn$convForward": 1, "potrf": 1}
