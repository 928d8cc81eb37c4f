"""How an attention and its backward pass become one differentiable operator of PyTorch, with shapes for torch.compile."""

from torch.library import CustomOpDef


def make_differentiable(attend: CustomOpDef, backward: CustomOpDef) -> None:
    """Give an operator its fake, its gradients and its backward's fake.

    Args:
        attend: (qkv, bias, interval, window) -> out, shapes as in mptpn.attention.retractable_attention.
        backward: (gradient of out, qkv, bias, interval, window) -> gradients of qkv and bias.
    """
    attend.register_fake(lambda qkv, bias, interval, window: qkv.new_empty(*qkv.shape[:3], *qkv.shape[4:]))
    backward.register_fake(
        lambda grad, qkv, bias, interval, window: (qkv.new_empty(qkv.shape), bias.new_empty(bias.shape))
    )
    attend.register_autograd(
        lambda ctx, grad: (*backward(grad, *ctx.saved_tensors, *ctx.grouping), None, None), setup_context=_keep_inputs
    )


def _keep_inputs(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.grouping = inputs[2:]
