// A transformer layer over packed sentences, bfloat16 in and out: what `binding.py` compiles, with a micro-kernel, and calls.
//
// Some hundred rows pass a layer together, so that all that lies between its products stays in a core's second-level
// cache. The feed-forward sublayer comes in 8-bit integers too.

#include <math.h>
#include <string.h>

#include MICROKERNEL

namespace {

constexpr long BLOCK = 384;  // rows that pass a layer together: more read the weights less often, but leave the cache
constexpr long CHUNK = 768;  // bytes of a row of the inner width, or of queries, keys and values, at a time

struct Norm {
  const float *gamma, *beta;
  float eps;
};

// weights in panels of 32 outputs; for integers what one of them stands for, (out,)
struct Linear {
  const char *weight;
  const float *bias, *scales;
};

struct Embedding {
  long width;
  const bf16 *word, *position;
  const float *token_type;
  Norm norm;
};

struct Layer {
  long width, heads, inner;
  Linear inputs, out, up, down;
  Norm attention_norm, output_norm;
  const float *smoothing;           // (width,) on the feed-forward input before rounding to integers; null: bfloat16
  float hidden_scale, hidden_zero;  // gelu * hidden_scale + hidden_zero is rounded to 0..255
};

// ---- what is not a product, row by row

// weights (keys) = exp2(scores - their largest), 0 behind `real` keys; returns 1 / sum
inline float softmax(const float *scores, long real, long keys, bf16 *weights) {
  const __m512 least = _mm512_set1_ps(-INFINITY);
  auto mask = [real](long key) { return real - key >= 16 ? 0xffff : real > key ? (1 << (real - key)) - 1 : 0; };
  long whole = real / 32 * 32;
  __m512 most = least, total = _mm512_setzero_ps();
  for (long key = 0; key < whole; key += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(scores + key));
  for (long key = whole; key < real; key += 16)
    most = _mm512_max_ps(most, _mm512_mask_loadu_ps(least, mask(key), scores + key));
  most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (long key = 0; key < whole; key += 32) {
    __m512 low = exp2(_mm512_sub_ps(_mm512_loadu_ps(scores + key), most));
    __m512 high = exp2(_mm512_sub_ps(_mm512_loadu_ps(scores + key + 16), most));
    total = _mm512_add_ps(total, _mm512_add_ps(low, high));
    store(weights + key, low, high);
  }
  if (long key = whole; key < keys) {
    __m512 low = _mm512_maskz_mov_ps(mask(key), exp2(_mm512_sub_ps(_mm512_loadu_ps(scores + key), most)));
    __m512 high = _mm512_maskz_mov_ps(mask(key + 16), exp2(_mm512_sub_ps(_mm512_loadu_ps(scores + key + 16), most)));
    total = _mm512_add_ps(total, _mm512_add_ps(low, high));
    store(weights + key, low, high);
  }
  return 1.0f / _mm512_reduce_add_ps(total);
}

// out = LayerNorm(x + sums); sums are used up
void add_norm(float *sums, const bf16 *x, bf16 *out, long width, const Norm &norm) {
  __m512 total = _mm512_setzero_ps(), squares = total;
  for (long i = 0; i < width; i += 16) {
    __m512 value = _mm512_add_ps(_mm512_loadu_ps(sums + i), load(x + i));
    _mm512_storeu_ps(sums + i, value);
    total = _mm512_add_ps(total, value);
    squares = _mm512_fmadd_ps(value, value, squares);
  }
  float mean = _mm512_reduce_add_ps(total) / width;
  float variance = fmaxf(_mm512_reduce_add_ps(squares) / width - mean * mean, 0.0f);
  __m512 scale = _mm512_set1_ps(1.0f / sqrtf(variance + norm.eps)), center = _mm512_set1_ps(mean);
  auto normed = [&](long i) {
    __m512 value = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(sums + i), center), scale);
    return _mm512_fmadd_ps(value, _mm512_loadu_ps(norm.gamma + i), _mm512_loadu_ps(norm.beta + i));
  };
  for (long i = 0; i < width; i += 32) store(out + i, normed(i), normed(i + 16));
}

// integers (width) = x * smoothing / what is returned, which makes the largest of them 127
float quantize(const bf16 *x, const float *smoothing, long width, int8_t *out) {
  __m512 most = _mm512_set1_ps(1e-12f);
  for (long i = 0; i < width; i += 16)
    most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_mul_ps(load(x + i), _mm512_loadu_ps(smoothing + i))));
  float scale = _mm512_reduce_max_ps(most) / 127;
  __m512 inverse = _mm512_set1_ps(1 / scale);
  for (long i = 0; i < width; i += 16) {
    __m512 value = _mm512_mul_ps(_mm512_mul_ps(load(x + i), _mm512_loadu_ps(smoothing + i)), inverse);
    __m128i rounded = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(value));
    _mm_storeu_si128((__m128i *)(out + i), _mm_xor_si128(rounded, _mm_set1_epi8(FLIPPED)));
  }
  return scale;
}

// ---- a layer

// memory for one block at a time; `wide` and `chunk` are bytes from row to row
struct Scratch {
  long bytes = 0, wide, chunk;
  bf16 *x, *context, *parts, *keys, *values, *weights;  // parts: queries, keys and values, or the inner width
  int8_t *rounded;
  float *sums, *scores, *row_scales;

  Scratch(char *base, const Layer &layer, long longest) {
    long rows = up_to(longest > BLOCK ? longest : BLOCK, SIDE) + SIDE, length = up_to(longest, SIDE);
    long d = layer.width / layer.heads, qkv = 3 * d * 2;
    auto take = [&](long size) { return base + (bytes += up_to(size, 64)) - up_to(size, 64); };
    wide = stride_of(layer.width * 2), chunk = stride_of(qkv > CHUNK ? qkv : CHUNK);
    x = (bf16 *)take(rows * wide);
    context = (bf16 *)take(rows * wide);
    rounded = (int8_t *)context;  // whose last reader is done by then
    parts = (bf16 *)take(rows * chunk);
    sums = (float *)take(rows * layer.width * 4);
    keys = (bf16 *)take(length * d * 2);
    values = (bf16 *)take(length * d * 2);
    weights = (bf16 *)take(SIDE * stride_of(length * 2));
    scores = (float *)take(SIDE * length * 4);
    row_scales = (float *)take(rows * 4);
  }

  bf16 *x_row(long row) const { return (bf16 *)((char *)x + row * wide); }
  bf16 *context_row(long row) const { return (bf16 *)((char *)context + row * wide); }
  bf16 *parts_row(long row) const { return (bf16 *)((char *)parts + row * chunk); }
};

// context (length, d) of one head of one sequence, from queries; keys and values lie `apart` numbers behind each other
void attend(const bf16 *query, long apart, long length, long d, bf16 *context, const Scratch &s) {
  long keys = up_to(length, SIDE), stride = stride_of(keys * 2);
  panels_of_rows(query + apart, s.chunk, length, d * 2, s.keys);
  panels_of_columns(query + 2 * apart, s.chunk, length, d, s.values);
  alignas(64) float sums[SIDE * SIDE], reciprocals[SIDE];
  for (long row = 0; row < length; row += SIDE) {
    long real = length - row < SIDE ? length - row : SIDE;
    for (long key = 0; key < keys; key += SIDE)
      square((const char *)query + row * s.chunk, s.chunk, s.keys + key * d, d / 32, s.scores + key, keys * 4,
             real);
    for (long line = 0; line < real; line++)
      reciprocals[line] = softmax(s.scores + line * keys, length, keys, (bf16 *)((char *)s.weights + line * stride));
    for (long part = 0; part < d; part += SIDE) {
      square(s.weights, stride, s.values + part * keys, keys / 32, sums, SIDE * 4, real);
      for (long line = 0; line < real; line++) {
        __m512 reciprocal = _mm512_set1_ps(reciprocals[line]);
        const float *sum = sums + line * SIDE;
        store((bf16 *)((char *)context + (row + line) * s.wide) + part, _mm512_mul_ps(_mm512_load_ps(sum), reciprocal),
              _mm512_mul_ps(_mm512_load_ps(sum + 16), reciprocal));
      }
    }
  }
}

// s.context (rows, width) from s.x, some heads at a time
void attention(const Layer &layer, const long *lengths, long sequences, long rows, const Scratch &s) {
  long width = layer.width, d = width / layer.heads, most = CHUNK / 6 / d < 1 ? 1 : CHUNK / 6 / d;
  for (long head = 0; head < layer.heads; head += most) {
    long columns = (layer.heads - head < most ? layer.heads - head : most) * d;
    for (long part = 0; part < 3; part++) {
      long first = part * width + head * d;
      const float *bias = layer.inputs.bias + first;
      product<FLOATS>(s.x, s.wide, rows, layer.inputs.weight + first * width * 2, width * SIDE * 2, width / 32, columns,
                      [&](const float *line, long row, long column) {
                        store(s.parts_row(row) + part * columns + column,
                              _mm512_add_ps(_mm512_load_ps(line), _mm512_loadu_ps(bias + column)),
                              _mm512_add_ps(_mm512_load_ps(line + 16), _mm512_loadu_ps(bias + column + 16)));
                      });
    }
    for (long i = 0, at = 0; i < sequences; at += lengths[i++])
      for (long column = 0; column < columns; column += d)
        attend(s.parts_row(at) + column, columns, lengths[i], d, s.context_row(at) + head * d + column, s);
  }
}

// s.sums (rows, width) = a (rows, 64 * steps bytes) times panels, plus `bias` or, without one, what they are
void add_product(const void *a, long stride, long rows, const char *panel, long next, long steps, const float *bias,
                 long width, const Scratch &s) {
  product<FLOATS>(a, stride, rows, panel, next, steps, width, [&](const float *line, long row, long column) {
    float *sum = s.sums + row * width + column;
    const float *before = bias ? bias + column : sum;
    _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_load_ps(line), _mm512_loadu_ps(before)));
    _mm512_storeu_ps(sum + 16, _mm512_add_ps(_mm512_load_ps(line + 16), _mm512_loadu_ps(before + 16)));
  });
}

// s.sums (rows, width) = down(gelu(up(s.x)))
void feed_forward(const Layer &layer, long rows, const Scratch &s) {
  long width = layer.width;
  for (long begin = 0; begin < layer.inner; begin += CHUNK / 2) {
    long size = layer.inner - begin < CHUNK / 2 ? layer.inner - begin : CHUNK / 2;
    const float *bias = layer.up.bias + begin;
    product<FLOATS>(s.x, s.wide, rows, layer.up.weight + begin * width * 2, width * SIDE * 2, width / 32, size,
                    [&](const float *line, long row, long column) {
                      __m512 low = _mm512_add_ps(_mm512_load_ps(line), _mm512_loadu_ps(bias + column));
                      __m512 high = _mm512_add_ps(_mm512_load_ps(line + 16), _mm512_loadu_ps(bias + column + 16));
                      store(s.parts_row(row) + column, gelu(low), gelu(high));
                    });
    add_product(s.parts, s.chunk, rows, layer.down.weight + begin * SIDE * 2, layer.inner * SIDE * 2, size / 32,
                begin ? nullptr : layer.down.bias, width, s);
  }
}

// the same by 8-bit products; each row of the input has a scale of its own, the inner width one for all
void feed_forward_8(const Layer &layer, long rows, const Scratch &s) {
  long width = layer.width, wide = stride_of(width);
  const __m512 scale = _mm512_set1_ps(layer.hidden_scale), zero = _mm512_set1_ps(layer.hidden_zero);
  for (long row = 0; row < rows; row++)
    s.row_scales[row] = quantize(s.x_row(row), layer.smoothing, width, s.rounded + row * wide);
  for (long begin = 0; begin < layer.inner; begin += CHUNK) {
    long size = layer.inner - begin < CHUNK ? layer.inner - begin : CHUNK;
    const float *bias = layer.up.bias + begin, *scales = layer.up.scales + begin;
    product<SIGNED>(s.rounded, wide, rows, layer.up.weight + begin * width, width * SIDE, width / 64, size,
                    [&](const int32_t *line, long row, long column) {
                      auto hidden = [&](long i) {
                        __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(line + i)),
                                                     _mm512_set1_ps(s.row_scales[row]));
                        value = _mm512_fmadd_ps(value, _mm512_loadu_ps(scales + column + i),
                                                _mm512_loadu_ps(bias + column + i));
                        return _mm512_fmadd_ps(gelu(value), scale, zero);
                      };
                      store_bytes((uint8_t *)s.parts_row(row) + column, hidden(0), hidden(16));
                    });
    product<UNSIGNED>(s.parts, s.chunk, rows, layer.down.weight + begin * SIDE, layer.inner * SIDE, size / 64, width,
                      [&](const int32_t *line, long row, long column) {
                        float *sum = s.sums + row * width + column;
                        const float *before = begin ? sum : layer.down.bias + column;
                        for (long i = 0; i < SIDE; i += 16)
                          _mm512_storeu_ps(sum + i, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(line + i)),
                                                                    _mm512_loadu_ps(layer.down.scales + column + i),
                                                                    _mm512_loadu_ps(before + i)));
                      });
  }
}

void block(const Layer &layer, const bf16 *x, bf16 *out, const long *lengths, long sequences, long rows,
           bool cls_only, const Scratch &s) {
  long width = layer.width;
  for (long row = 0; row < rows; row++) memcpy(s.x_row(row), x + row * width, width * 2);
  attention(layer, lengths, sequences, rows, s);
  if (cls_only) {
    for (long i = 0, at = 0; i < sequences; at += lengths[i++]) {
      memmove(s.context_row(i), s.context_row(at), width * 2);
      memmove(s.x_row(i), s.x_row(at), width * 2);
    }
    rows = sequences;
  }
  add_product(s.context, s.wide, rows, layer.out.weight, width * SIDE * 2, width / 32, layer.out.bias, width, s);
  for (long row = 0; row < rows; row++)
    add_norm(s.sums + row * width, s.x_row(row), s.x_row(row), width, layer.attention_norm);
  layer.smoothing ? feed_forward_8(layer, rows, s) : feed_forward(layer, rows, s);
  for (long row = 0; row < rows; row++)
    add_norm(s.sums + row * width, s.x_row(row), out + row * width, width, layer.output_norm);
}

}  // namespace

extern "C" {

// out (tokens, width) = LayerNorm(word[id] + token_type + position[place])
void embed(const Embedding *table, const int64_t *ids, const int64_t *places, long tokens, bf16 *out, float *sums) {
  long width = table->width;
  for (long token = 0; token < tokens; token++) {
    const bf16 *word = table->word + ids[token] * width;
    for (long i = 0; i < width; i += 16)
      _mm512_storeu_ps(sums + i, _mm512_add_ps(load(word + i), _mm512_loadu_ps(table->token_type + i)));
    add_norm(sums, table->position + places[token] * width, out + token * width, width, table->norm);
  }
}

// of the structs that the caller fills, who compares them with its own
extern const long struct_sizes[4] = {sizeof(Norm), sizeof(Linear), sizeof(Embedding), sizeof(Layer)};

// whether the system lets this process use the instructions
int allowed() { return allow(); }

// (rows, width bytes) weights of 32-bit pairs or fours -> panels
void pack_weight(const void *weight, long rows, long width, void *panels) {
  panels_of_rows(weight, width, rows, width, panels);
}

long scratch_bytes(const Layer *layer, long longest) { return Scratch(nullptr, *layer, longest).bytes; }

// out = layer(x): (tokens, width) -> (tokens, width), or (sequences, width) of first tokens alone
void run_layer(const Layer *layer, const bf16 *x, bf16 *out, const long *lengths, long sequences, long longest,
               int cls_only, char *scratch) {
  Unit unit;
  Scratch s(scratch, *layer, longest);
  for (long first = 0, last; first < sequences; first = last) {
    long rows = lengths[first];
    for (last = first + 1; last < sequences && rows + lengths[last] <= BLOCK; last++) rows += lengths[last];
    block(*layer, x, out, lengths + first, last - first, rows, cls_only, s);
    x += rows * layer->width;
    out += (cls_only ? last - first : rows) * layer->width;
  }
}
}
