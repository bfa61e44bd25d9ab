"""Heads and feed-forward channels: exported patterns and fused operators; cutting equals zeroing, units are found."""

from __future__ import annotations

from tests.pruning.conftest import Bench
from tests.pruning.feeds import sequence

ATTENTION = """
net (float[N, T, 8] x) => (float[N, T, 5] y) {
  sh = Constant<value = int64[4] {0, 0, 4, 3}>()
  sb = Constant<value = int64[3] {0, 0, 12}>()
  q0 = MatMul(x, wq)
  q1 = Add(q0, bq)
  k0 = MatMul(x, wk)
  v0 = MatMul(x, wv)
  q2 = Reshape(q1, sh)
  k2 = Reshape(k0, sh)
  v2 = Reshape(v0, sh)
  q = Transpose<perm = [0, 2, 1, 3]>(q2)
  k = Transpose<perm = [0, 2, 3, 1]>(k2)
  v = Transpose<perm = [0, 2, 1, 3]>(v2)
  s = MatMul(q, k)
  p = Softmax<axis = -1>(s)
  o = MatMul(p, v)
  o1 = Transpose<perm = [0, 2, 1, 3]>(o)
  o2 = Reshape(o1, sb)
  o3 = MatMul(o2, wo)
  r = Add(o3, x)
  n = LayerNormalization(r, g, b)
  h = MatMul(n, w1)
  h1 = Add(b1, h)
  h2 = Relu(h1)
  h3 = MatMul(h2, w2)
  z = Add(h3, n)
  y = MatMul(z, wy)
}
"""


def test_attention_heads_and_feed_forward_channels_are_units(bench: Bench) -> None:
    shapes = {"wq": (8, 12), "bq": (12,), "wk": (8, 12), "wv": (8, 12), "wo": (12, 8), "g": (8,), "b": (8,)}
    shapes |= {"w1": (8, 16), "b1": (16,), "w2": (16, 8), "wy": (8, 5)}
    model = bench.weights(bench.build(ATTENTION), **shapes)
    assert bench.units(model, sequence()) == [4, 16]
    bench.check(model, sequence(), sequence(2, 9))


def test_the_residual_stream_of_a_layer_norm_is_kept_with_the_reason(bench: Bench) -> None:
    text = """
    net (float[N, T, 8] x) => (float[N, T, 5] y) {
      a = MatMul(x, w0)
      n = LayerNormalization(a, g, b)
      y = MatMul(n, wy)
    }
    """
    model = bench.weights(bench.build(text), w0=(8, 6), g=(6,), b=(6,), wy=(6, 5))
    assert bench.units(model, sequence()) == []


def test_packed_attention_of_a_vision_transformer(bench: Bench) -> None:
    text = """
    net (float[N, T, 8] x) => (float[N, T, 5] y) {
      sh = Constant<value = int64[5] {0, 0, 3, 4, 3}>()
      sb = Constant<value = int64[3] {0, 0, 12}>()
      zero = Constant<value = int64 {0}>()
      one = Constant<value = int64 {1}>()
      two = Constant<value = int64 {2}>()
      a = MatMul(x, wqkv)
      a1 = Add(a, bqkv)
      c = Reshape(a1, sh)
      d = Transpose<perm = [2, 0, 3, 1, 4]>(c)
      q = Gather<axis = 0>(d, zero)
      k0 = Gather<axis = 0>(d, one)
      v = Gather<axis = 0>(d, two)
      k = Transpose<perm = [0, 1, 3, 2]>(k0)
      s = MatMul(q, k)
      p = Softmax<axis = -1>(s)
      o = MatMul(p, v)
      o1 = Transpose<perm = [0, 2, 1, 3]>(o)
      o2 = Reshape(o1, sb)
      y = MatMul(o2, wo)
    }
    """
    model = bench.weights(bench.build(text), wqkv=(8, 36), bqkv=(36,), wo=(12, 5))
    assert bench.units(model, sequence()) == [4]
    bench.check(model, sequence(), sequence(3, 4))


def test_grouped_queries_go_with_their_keys(bench: Bench) -> None:
    text = """
    net (float[N, T, 8] x) => (float[N, T, 5] y) {
      sq = Constant<value = int64[4] {0, 0, 6, 3}>()
      sk = Constant<value = int64[4] {0, 0, 3, 3}>()
      sb = Constant<value = int64[3] {0, 0, 18}>()
      ax = Constant<value = int64[1] {2}>()
      ex = Constant<value = int64[5] {1, 1, 2, 1, 1}>()
      tail = Constant<value = int64[2] {2, 3}>()
      three = Constant<value = int64[1] {3}>()
      q0 = MatMul(x, wq)
      k0 = MatMul(x, wk)
      v0 = MatMul(x, wv)
      q1 = Reshape(q0, sq)
      k1 = Reshape(k0, sk)
      v1 = Reshape(v0, sk)
      q = Transpose<perm = [0, 2, 1, 3]>(q1)
      k2 = Transpose<perm = [0, 2, 1, 3]>(k1)
      v2 = Transpose<perm = [0, 2, 1, 3]>(v1)
      k3 = Unsqueeze(k2, ax)
      v3 = Unsqueeze(v2, ax)
      k4 = Expand(k3, ex)
      v4 = Expand(v3, ex)
      sh = Shape(q)
      k5 = Reshape(k4, sh)
      v5 = Reshape(v4, sh)
      kt = Transpose<perm = [0, 1, 3, 2]>(k5)
      s = MatMul(q, kt)
      p = Softmax<axis = -1>(s)
      o = MatMul(p, v5)
      o1 = Transpose<perm = [0, 2, 1, 3]>(o)
      o2 = Reshape(o1, sb)
      y = MatMul(o2, wo)
    }
    """
    model = bench.weights(bench.build(text), wq=(8, 18), wk=(8, 9), wv=(8, 9), wo=(18, 5))
    assert bench.units(model, sequence()) == [3]
    bench.check(model, sequence(), sequence(2, 5))


def test_heads_of_fused_attention(bench: Bench) -> None:
    text = """
    net (float[N, T, 8] x) => (float[N, T, 5] y) {
      q = MatMul(x, wq)
      k = MatMul(x, wk)
      v = MatMul(x, wv)
      a = com.microsoft.MultiHeadAttention<num_heads = 4>(q, k, v)
      b = MatMul(a, wo)
      c = com.microsoft.Attention<num_heads = 2>(b, wp, bp)
      y = MatMul(c, wy)
    }
    """
    shapes = {"wq": (8, 16), "wk": (8, 16), "wv": (8, 16), "wo": (16, 6), "wp": (6, 24), "bp": (24,), "wy": (8, 5)}
    model = bench.weights(bench.build(text), **shapes)
    assert bench.units(model, sequence()) == [4, 6, 2]
    bench.check(model, sequence(), sequence(2, 5))


def test_attention_of_opset_23(bench: Bench) -> None:
    text = """
    net (float[N, T, 8] x) => (float[N, T, 5] y) {
      q = MatMul(x, wq)
      k = MatMul(x, wk)
      v = MatMul(x, wv)
      a = Attention<q_num_heads = 6, kv_num_heads = 3>(q, k, v)
      y = MatMul(a, wy)
    }
    """
    model = bench.build(text, '<ir_version: 11, opset_import: ["" : 23]>')
    model = bench.weights(model, wq=(8, 24), wk=(8, 12), wv=(8, 12), wy=(24, 5))
    assert bench.units(model, sequence()) == [3]
    bench.check(model, sequence(), sequence(2, 5))
