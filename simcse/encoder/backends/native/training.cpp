// What lies between the matrix products of a training step, each pass over the activations with all that it can do on
// its way, and attention: what `cpu_training/passes.py` compiles and calls.
//
// Products take most of a step and are torch's. The rest is bound by reading and writing memory and by the number of
// passes: the gradient of a bias, a sum over rows, is taken while the rows are written, and a dropout mask is made from
// a counter, many lanes at once. Widths are multiples of 32.

#include LANES

#include "functions.hpp"
#include "random.hpp"
#include "threads.hpp"
#include "training_attention.hpp"

#include <vector>

namespace {

// sums over rows, of some kinds, a copy for each thread; added up in the order of the threads
struct Sums {
  long kinds, width, threads;
  std::vector<float> parts;
  Sums(long kinds, long width, long threads)
      : kinds(kinds), width(width), threads(threads), parts(kinds * width * threads) {}
  float *of(long thread, long kind) { return &parts[(thread * kinds + kind) * width]; }
  void total(long kind, float *out) {
    for (long i = 0; i < width; i += 16) {
      lanes sum = load(of(0, kind) + i);
      for (long thread = 1; thread < threads; thread++) sum = sum + load(of(thread, kind) + i);
      store(out + i, sum);
    }
  }
};

inline void add_to(float *sums, lanes value) { store(sums, load(sums) + value); }

// of gelu: the normal distribution's share below x, and x times its density; with erfc as in exact_gelu
inline lanes gelu_slope(lanes x) {
  lanes size = magnitude(x), t = all(1.0f) / fused(size, all(0.3275911f * 0.70710678f), all(1.0f));
  lanes sum = polynomial({0.254829592f, -0.284496736f, 1.421413741f, -1.453152027f, 1.061405429f}, t);
  lanes bell = exp2(x * x * all(-0.5f * 1.44269504f)), tail = all(0.5f) * t * sum * bell;  // the share below -|x|
  lanes sign = smaller(all(1.0f), larger(all(-1.0f), x * all(1e30f)));
  return all(0.5f) + sign * (all(0.5f) - tail) + all(0.398942280f) * x * bell;
}

// 8 x 8 numbers of 16 bits: three times, each row of the upper half is interleaved with one of the lower
inline void transpose_8x8(const uint16_t *x, long stride, uint16_t *out, long out_stride) {
  __m128i rows[8], mixed[8];
  for (int i = 0; i < 8; i++) rows[i] = _mm_loadu_si128((const __m128i *)(x + i * stride));
  for (int turn = 0; turn < 3; turn++) {
    for (int i = 0; i < 4; i++) {
      mixed[2 * i] = _mm_unpacklo_epi16(rows[i], rows[i + 4]);
      mixed[2 * i + 1] = _mm_unpackhi_epi16(rows[i], rows[i + 4]);
    }
    for (int i = 0; i < 8; i++) rows[i] = mixed[i];
  }
  for (int i = 0; i < 8; i++) _mm_storeu_si128((__m128i *)(out + i * out_stride), rows[i]);
}

}  // namespace

extern "C" {

// keep (count) = 1 where 16 random bits are at least `drop`, else 0
void keep_mask(uint64_t seed, uint32_t drop, number *keep, long count, long threads) {
  const number one = sizeof(number) == 2 ? (number)0x3f80 : (number)1;
  split(count / 4, threads, [&](long, long first, long end) {
    for (long i = first; i < end; i += 64) keep_some(seed, i, drop, 4 * (end - i), one, keep + 4 * i);
  });
  keep_some(seed, count / 4, drop, count % 4, one, keep + count / 4 * 4);
}

// out = gelu(x + bias), both (rows, width)
void gelu_forward(const number *x, const float *bias, number *out, long rows, long width, long threads) {
  split(rows, threads, [&](long, long first, long end) {
    for (long row = first; row < end; row++)
      for (long i = 0; i < width; i += 32) {
        const number *at = x + row * width + i;
        lanes low = load(at) + load(bias + i), high = load(at + 16) + load(bias + i + 16);
        store(out + row * width + i, exact_gelu(low), exact_gelu(high));
      }
  });
}

// grad *= slope of gelu at x + bias; sums (width) = those of its columns
void gelu_backward(
    number *grad, const number *x, const float *bias, float *sums, long rows, long width, long threads) {
  Sums parts(1, width, threads);
  split(rows, threads, [&](long thread, long first, long end) {
    float *own = parts.of(thread, 0);
    for (long row = first; row < end; row++)
      for (long i = 0; i < width; i += 32) {
        number *g = grad + row * width + i;
        const number *at = x + row * width + i;
        lanes low = load(g) * gelu_slope(load(at) + load(bias + i));
        lanes high = load(g + 16) * gelu_slope(load(at + 16) + load(bias + i + 16));
        store(g, low, high);
        add_to(own + i, low), add_to(own + i + 16, high);
      }
  });
  parts.total(0, sums);
}

// sums (width) over rows of x
void column_sums(const number *x, float *sums, long rows, long width, long threads) {
  Sums parts(1, width, threads);
  split(rows, threads, [&](long thread, long first, long end) {
    for (long row = first; row < end; row++)
      for (long i = 0; i < width; i += 16) add_to(parts.of(thread, 0) + i, load(x + row * width + i));
  });
  parts.total(0, sums);
}

// total = x + keep * (update + bias) (keep null: 1), out = LayerNorm(total), and each row's mean and 1 / deviation
void add_norm(
    const number *x, const number *update, const float *bias, const number *keep, const float *gamma, const float *beta, float eps,
    number *total_out, number *out, float *means, float *rstds, long rows, long width, long threads) {
  split(rows, threads, [&](long, long first, long end) {
    for (long row = first; row < end; row++) {
      long at = row * width;
      number *sum = total_out + at;
      auto added = [&](long i) {
        lanes change = load(update + at + i) + load(bias + i);
        return keep ? fused(change, load(keep + at + i), load(x + at + i)) : change + load(x + at + i);
      };
      for (long i = 0; i < width; i += 32) store(sum + i, added(i), added(i + 16));
      lanes first_moment = all(0), second_moment = all(0);
      for (long i = 0; i < width; i += 16) first_moment = first_moment + load(sum + i);
      float mean = total(first_moment) / width;
      lanes center = all(mean);
      for (long i = 0; i < width; i += 16) {
        lanes off = load(sum + i) - center;
        second_moment = fused(off, off, second_moment);
      }
      float rstd = 1.0f / sqrtf(total(second_moment) / width + eps);
      lanes scale = all(rstd);
      auto normed = [&](long i) {
        return fused((load(sum + i) - center) * scale, load(gamma + i), load(beta + i));
      };
      for (long i = 0; i < width; i += 32) store(out + at + i, normed(i), normed(i + 16));
      means[row] = mean, rstds[row] = rstd;
    }
  });
}

// gradients of x and update from that of LayerNorm's output; sums (3, width): gradients of gamma and beta, and the
// columns of update's. Without a mask the two are one.
void add_norm_backward(
    const number *grad, const number *totals, const number *keep, const float *gamma, const float *means,
    const float *rstds, number *x_grad, number *update_grad, float *sums, long rows, long width, long threads) {
  Sums parts(3, width, threads);
  split(rows, threads, [&](long thread, long first, long end) {
    float *of_gamma = parts.of(thread, 0), *of_beta = parts.of(thread, 1), *of_update = parts.of(thread, 2);
    for (long row = first; row < end; row++) {
      long at = row * width;
      lanes center = all(means[row]), scale = all(rstds[row]), plain = all(0), along = all(0);
      auto normal = [&](long i) { return (load(totals + at + i) - center) * scale; };
      for (long i = 0; i < width; i += 16) {
        lanes g = load(grad + at + i), unit = normal(i), inner = g * load(gamma + i);
        plain = plain + inner;
        along = fused(inner, unit, along);
        add_to(of_gamma + i, g * unit), add_to(of_beta + i, g);
      }
      lanes mean = all(total(plain) / width), slope = all(total(along) / width);
      auto back = [&](long i) {
        return scale * (load(grad + at + i) * load(gamma + i) - mean - normal(i) * slope);
      };
      for (long i = 0; i < width; i += 32) {
        lanes low = back(i), high = back(i + 16);
        store(x_grad + at + i, low, high);
        if (keep) {
          low = low * load(keep + at + i), high = high * load(keep + at + i + 16);
          store(update_grad + at + i, low, high);
        }
        add_to(of_update + i, low), add_to(of_update + i + 16, high);
      }
    }
  });
  for (long kind = 0; kind < 3; kind++) parts.total(kind, sums + kind * width);
}

// out (count, bytes) = rows of x
void gather(const char *x, const int64_t *rows, char *out, long count, long bytes, long threads) {
  split(count, threads, [&](long, long first, long end) {
    if (bytes == 64)
      for (long i = first; i < end; i++) memcpy(out + i * 64, x + rows[i] * 64, 64);
    else
      for (long i = first; i < end; i++) memcpy(out + i * bytes, x + rows[i] * bytes, bytes);
  });
}

// out (width, rows) = x (rows, width), numbers of 16 bits
void transpose(const uint16_t *x, uint16_t *out, long rows, long width, long threads) {
  split(rows / 8, threads, [&](long, long first, long end) {
    for (long row = first * 8; row < end * 8; row += 8)
      for (long i = 0; i < width; i += 8) transpose_8x8(x + row * width + i, width, out + i * rows + row, rows);
  });
  for (long row = rows / 8 * 8; row < rows; row++)
    for (long i = 0; i < width; i++) out[i * rows + row] = x[row * width + i];
}

// context = softmax(query keys) values by heads, and the weights, (queries, keys rounded up to 32) a sequence and a head
void attention_forward(
    const number *query, const number *key_value, const int64_t *starts, const int64_t *lengths, const int64_t *offsets,
    number *weights, number *context, long sequences, long heads, long width, long first, uint64_t seed, uint32_t drop,
    long threads) {
  Batch batch = {starts, lengths, offsets, sequences, heads, width, first, seed, drop};
  attention_of(batch, query, key_value, weights, context, threads);
}

// gradients of query and key_value from that of the context
void attention_backward(
    const number *grad, const number *query, const number *key_value, const int64_t *starts, const int64_t *lengths,
    const int64_t *offsets, const number *weights, number *query_grad, number *key_value_grad, long sequences,
    long heads, long width, long first, uint64_t seed, uint32_t drop, long threads) {
  Batch batch = {starts, lengths, offsets, sequences, heads, width, first, seed, drop};
  attention_gradients(batch, grad, query, key_value, weights, query_grad, key_value_grad, threads);
}

}  // extern "C"
