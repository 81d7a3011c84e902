"""The formulas of the papers, written out in loops."""

import torch


def positions(A):
    return [(i, j) for i in range(A.shape[1]) for j in range(A.shape[2])]


def weighted(A, weights):
    """Σ_k w_k A_k, in loops."""
    L = torch.zeros(A.shape[1:], dtype=A.dtype)
    for i, j in positions(A):
        L[i, j] = sum(float(weights[k] * A[k, i, j]) for k in range(len(A)))
    return L


def relu(L):
    return torch.tensor([[max(float(value), 0.0) for value in row] for row in L], dtype=L.dtype)


def loops_grad_cam(A, g):
    Z = A.shape[1] * A.shape[2]
    return relu(weighted(A, [sum(g[k, i, j] for i, j in positions(A)) / Z for k in range(len(A))]))


def loops_grad_cam_plus_plus(A, g):
    weights = []
    for k in range(len(A)):
        total = sum(A[k, a, b] for a, b in positions(A))
        weight = 0.0
        for i, j in positions(A):
            denominator = 2 * g[k, i, j] ** 2 + total * g[k, i, j] ** 3
            alpha = g[k, i, j] ** 2 / denominator if denominator != 0 else 0.0
            weight += alpha * max(g[k, i, j], 0.0)
        weights.append(weight)
    return relu(weighted(A, weights))


def loops_hires_cam(A, g):
    L = torch.zeros(A.shape[1:], dtype=A.dtype)
    for i, j in positions(A):
        L[i, j] = sum(float(g[k, i, j] * A[k, i, j]) for k in range(len(A)))
    return relu(L)


def loops_layer_cam(A, g):
    L = torch.zeros(A.shape[1:], dtype=A.dtype)
    for i, j in positions(A):
        L[i, j] = sum(max(float(g[k, i, j]), 0.0) * float(A[k, i, j]) for k in range(len(A)))
    return relu(L)


def loops_xgrad_cam(A, g):
    weights = []
    for k in range(len(A)):
        total = sum(float(A[k, i, j]) for i, j in positions(A))
        weights.append(sum(float(g[k, i, j] * A[k, i, j]) for i, j in positions(A)) / total if total else 0.0)
    return relu(weighted(A, weights))


LOOPS = {
    "grad_cam": loops_grad_cam,
    "grad_cam_plus_plus": loops_grad_cam_plus_plus,
    "hires_cam": loops_hires_cam,
    "layer_cam": loops_layer_cam,
    "xgrad_cam": loops_xgrad_cam,
}


def loops_bilinear(L, H, W):
    """Upsampling with `align_corners=False`: a pixel's center is at (i + ½)·h/H − ½, held inside the map."""
    h, w = L.shape
    out = torch.zeros(H, W, dtype=L.dtype)
    for i in range(H):
        for j in range(W):
            y, x = max((i + 0.5) * h / H - 0.5, 0), max((j + 0.5) * w / W - 0.5, 0)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = L[y0, x0] * (1 - (x - x0)) + L[y0, x1] * (x - x0)
            low = L[y1, x0] * (1 - (x - x0)) + L[y1, x1] * (x - x0)
            out[i, j] = top * (1 - (y - y0)) + low * (y - y0)
    return out


def gradient(model, image, label):
    """∂score/∂image."""
    leaf = image.clone().requires_grad_()
    return torch.autograd.grad(model(leaf[None])[0, label], leaf)[0]


def map_and_gradient(model, layer, image, label):
    """A of the module of a sequential model, and ∂score/∂A."""
    A = model[: layer + 1](image[None]).detach().requires_grad_()
    return A[0].detach(), torch.autograd.grad(model[layer + 1 :](A)[0, label], A)[0][0]


def score(model, image, label):
    with torch.no_grad():
        return float(model(image[None])[0, label])


def loops_ablation_cam(model, layer, image, label):
    A = model[: layer + 1](image[None])[0].detach()
    whole, weights = score(model, image, label), []
    for k in range(len(A)):
        without = A.clone()
        without[k] = 0
        with torch.no_grad():
            weights.append((whole - float(model[layer + 1 :](without[None])[0, label])) / abs(whole))
    return relu(weighted(A, weights))
