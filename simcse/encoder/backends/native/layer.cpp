// A transformer layer over packed sentences: what `binding.py` compiles, with a micro-kernel, and calls.
//
// Some hundred rows pass a layer together, so that all that lies between its products stays in a core's second-level
// cache. A layer's four linear maps come in 8-bit integers too: each row of an input has a scale of its own then.

#include MICROKERNEL

#include "functions.hpp"

namespace {

struct Norm {
  const float *gamma, *beta;
  float eps;
};

// weights in panels of 32 outputs; for integers what one of them stands for (out,), and, for all inputs but the inner
// width, what to multiply an input with (in,) before it is rounded, and what sums begin at (out,)
struct Linear {
  const char *weight;
  const float *bias, *scales, *smoothing;
  const int32_t *begins;
};

struct Embedding {
  long width;
  const number *word, *position;
  const float *token_type;
  Norm norm;
};

struct Layer {
  long width, heads, inner;
  Linear inputs, out, up, down;  // all in integers, or none
  Norm attention_norm, output_norm;
  const float *relative;  // added to scores; null, or for each head 2 * span + 32, of key - query = -span and up
  long span;
  float least_gelu;  // what 0 of an inner number in integers stands for
};

// ---- what is not a product, row by row

// weights (keys) = exp2(scores - their largest), 0 behind `real` keys; returns 1 / sum
inline float softmax(const float *scores, long real, long keys, number *weights) {
  long whole = real / 32 * 32;
  lanes most = all(-INFINITY), sum = all(0);
  for (long key = 0; key < whole; key += 16) most = larger(most, load(scores + key));
  for (long key = whole; key < real; key += 16) most = larger(most, load_first(scores + key, real - key, all(-INFINITY)));
  most = all(largest(most));
  for (long key = 0; key < whole; key += 32) {
    lanes low = exp2(load(scores + key) - most), high = exp2(load(scores + key + 16) - most);
    sum = sum + (low + high);
    store(weights + key, low, high);
  }
  if (long key = whole; key < keys) {
    lanes low = keep_first(exp2(load(scores + key) - most), real - key);
    lanes high = keep_first(exp2(load(scores + key + 16) - most), real - key - 16);
    sum = sum + (low + high);
    store(weights + key, low, high);
  }
  return 1.0f / total(sum);
}

// out = LayerNorm(x + sums); sums are used up
void add_norm(float *sums, const number *x, number *out, long width, const Norm &norm) {
  lanes sum = all(0), squares = sum;
  for (long i = 0; i < width; i += 16) {
    lanes value = load(sums + i) + load(x + i);
    store(sums + i, value);
    sum = sum + value;
    squares = fused(value, value, squares);
  }
  float mean = total(sum) / width;
  float variance = fmaxf(total(squares) / width - mean * mean, 0.0f);
  lanes scale = all(1.0f / sqrtf(variance + norm.eps)), center = all(mean);
  auto normed = [&](long i) { return fused((load(sums + i) - center) * scale, load(norm.gamma + i), load(norm.beta + i)); };
  for (long i = 0; i < width; i += 32) store(out + i, normed(i), normed(i + 16));
}

// out (width) = x * smoothing / what is returned, which makes the largest of them 127
float quantize(const number *x, const float *smoothing, long width, int8_t *out) {
  lanes most = all(1e-12f);
  for (long i = 0; i < width; i += 16) most = larger(most, magnitude(load(x + i) * load(smoothing + i)));
  float scale = largest(most) / 127;
  lanes inverse = all(1 / scale);
  for (long i = 0; i < width; i += 16) store_signed(out + i, load(x + i) * load(smoothing + i) * inverse, FLIPPED);
  return scale;
}

// out (width), which may begin where x does, = (x - least) / what is returned, which makes the largest of them 255
float quantize_hidden(const number *x, float least, long width, uint8_t *out) {
  lanes most = all(1e-3f);
  for (long i = 0; i < width; i += 16) most = larger(most, load(x + i));
  float scale = (largest(most) - least) / 255;
  lanes inverse = all(1 / scale), begin = all(-least / scale);
  for (long i = 0; i < width; i += 16) store_unsigned(out + i, fused(load(x + i), inverse, begin));
  return scale;
}

// ---- a layer

// memory for one block at a time; `wide`, `narrow` and `chunk` are bytes from row to row
struct Scratch {
  long bytes = 0, wide, narrow, chunk, weight_bytes;
  number *x, *context, *parts, *keys, *values, *weights;  // parts: queries, keys and values, or the inner width
  int8_t *rounded;
  float *sums, *scores, *row_scales, *hidden_scales;

  Scratch(char *base, const Layer &layer, long longest) {
    long rows = up_to(longest > BLOCK ? longest : BLOCK, SIDE) + SIDE, length = up_to(longest, SIDE);
    long d = layer.width / layer.heads, qkv = 3 * d * BYTES;
    auto take = [&](long size) { return base + (bytes += up_to(size, 64)) - up_to(size, 64); };
    wide = stride_of(layer.width * BYTES), narrow = stride_of(layer.width), chunk = stride_of(qkv > CHUNK ? qkv : CHUNK);
    x = (number *)take(rows * wide);
    context = (number *)take(rows * wide);
    rounded = (int8_t *)take(layer.inputs.scales ? rows * narrow : 0);
    parts = (number *)take(rows * chunk);
    sums = (float *)take(rows * layer.width * 4);
    keys = (number *)take(length * d * BYTES);
    values = (number *)take(length * d * BYTES);
    weights = (number *)take(weight_bytes = (SIDE + SPARE) * stride_of(length * BYTES));
    scores = (float *)take((SIDE + SPARE) * length * 4);
    row_scales = (float *)take(rows * 4);
    hidden_scales = (float *)take(rows * 4);
  }

  number *x_row(long row) const { return (number *)((char *)x + row * wide); }
  number *context_row(long row) const { return (number *)((char *)context + row * wide); }
  number *parts_row(long row) const { return (number *)((char *)parts + row * chunk); }
};

// finish(low, high, row, column) takes 32 outputs of a row at a time, `columns` of them from `first` on. The input is x
// (rows, width); where the weights are integers, s.rounded instead, as `round_rows` left it.
template <class Finish>
void apply(const Linear &linear, const number *x, long rows, long width, long first, long columns, const Scratch &s,
           Finish finish) {
  const float *bias = linear.bias + first, *scales = linear.scales + first;
  if (linear.scales)
    product<SIGNED>(s.rounded, s.narrow, rows, linear.weight + first * width, width * SIDE, width / STEP, columns,
                    linear.begins + first, [&](const int32_t *line, long row, long column) {
                      lanes scale = all(s.row_scales[row]);
                      auto part = [&](long i) {
                        return fused(load(line + i) * scale, load(scales + column + i), load(bias + column + i));
                      };
                      finish(part(0), part(16), row, column);
                    });
  else
    product<FLOATS>(x, s.wide, rows, linear.weight + first * width * BYTES, width * SIDE * BYTES, width * BYTES / STEP,
                    columns, nullptr, [&](const float *line, long row, long column) {
                      finish(load(line) + load(bias + column), load(line + 16) + load(bias + column + 16), row, column);
                    });
}

// scales of the rows that fill up the last 32: see `block`
void fill_up(float *scales, long rows) {
  for (long row = rows; row < up_to(rows, SIDE); row++) scales[row] = 0;
}

// s.rounded = x (rows, width), each row by a scale of its own, where the weights are integers
void round_rows(const Linear &linear, const number *x, long rows, long width, const Scratch &s) {
  if (!linear.scales) return;
  for (long row = 0; row < rows; row++)
    s.row_scales[row] = quantize((const number *)((const char *)x + row * s.wide), linear.smoothing, width,
                                 s.rounded + row * s.narrow);
  fill_up(s.row_scales, rows);
}

// context (length, d) of one head of one sequence, from queries; keys and values lie `apart` numbers behind each other
void attend(const number *query, long apart, long length, long d, const float *relative, number *context,
            const Scratch &s) {
  long keys = up_to(length, SIDE), stride = stride_of(keys * BYTES);
  panels_of_rows(query + apart, s.chunk, length, d * BYTES, s.keys);
  panels_of_columns(query + 2 * apart, s.chunk, length, d, s.values);
  alignas(64) float sums[(SIDE + SPARE) * SIDE], reciprocals[SIDE];
  for (long row = 0; row < length; row += SIDE) {
    long real = length - row < SIDE ? length - row : SIDE;
    for (long key = 0; key < keys; key += SIDE)
      square((const char *)query + row * s.chunk, s.chunk, s.keys + key * d, d * BYTES / STEP, s.scores + key, keys * 4,
             real);
    for (long line = 0; line < real; line++) {
      float *scores = s.scores + line * keys;
      if (relative)
        for (long key = 0; key < keys; key += 16)
          store(scores + key, load(scores + key) + load(relative + key - row - line));
      reciprocals[line] = softmax(scores, length, keys, (number *)((char *)s.weights + line * stride));
    }
    for (long part = 0; part < d; part += SIDE) {
      square(s.weights, stride, s.values + part * keys, keys * BYTES / STEP, sums, SIDE * 4, real);
      for (long line = 0; line < real; line++) {
        lanes reciprocal = all(reciprocals[line]);
        const float *sum = sums + line * SIDE;
        store((number *)((char *)context + (row + line) * s.wide) + part, load(sum) * reciprocal,
              load(sum + 16) * reciprocal);
      }
    }
  }
}

// s.context (rows, width) from s.x, some heads at a time
void attention(const Layer &layer, const long *lengths, long sequences, long rows, const Scratch &s) {
  long width = layer.width, d = width / layer.heads, most = CHUNK / (3 * BYTES) / d < 1 ? 1 : CHUNK / (3 * BYTES) / d;
  round_rows(layer.inputs, s.x, rows, width, s);
  for (long head = 0; head < layer.heads; head += most) {
    long columns = (layer.heads - head < most ? layer.heads - head : most) * d;
    for (long part = 0; part < 3; part++)
      apply(layer.inputs, s.x, rows, width, part * width + head * d, columns, s,
            [&](lanes low, lanes high, long row, long column) { store(s.parts_row(row) + part * columns + column, low, high); });
    for (long column = 0; column < columns; column += d) {
      const float *relative =
          layer.relative ? layer.relative + (head + column / d) * (2 * layer.span + 32) + layer.span : nullptr;
      for (long i = 0, at = 0; i < sequences; at += lengths[i++])
        attend(s.parts_row(at) + column, columns, lengths[i], d, relative, s.context_row(at) + head * d + column, s);
    }
  }
}

// s.sums (rows, width) = down(gelu(up(s.x)))
void feed_forward(const Layer &layer, long rows, const Scratch &s) {
  long width = layer.width, most = CHUNK / BYTES;
  const Linear &down = layer.down;
  round_rows(layer.up, s.x, rows, width, s);
  for (long begin = 0; begin < layer.inner; begin += most) {
    long size = layer.inner - begin < most ? layer.inner - begin : most;
    apply(layer.up, s.x, rows, width, begin, size, s, [&](lanes low, lanes high, long row, long column) {
      store(s.parts_row(row) + column, gelu(low), gelu(high));
    });
    auto before = [&](float *sum, long column) { return load(begin ? sum : down.bias + column); };
    if (!down.scales) {
      product<FLOATS>(s.parts, s.chunk, rows, down.weight + begin * SIDE * BYTES, layer.inner * SIDE * BYTES,
                      size * BYTES / STEP, width, nullptr, [&](const float *line, long row, long column) {
                        float *sum = s.sums + row * width + column;
                        store(sum, load(line) + before(sum, column));
                        store(sum + 16, load(line + 16) + before(sum + 16, column + 16));
                      });
      continue;
    }
    for (long row = 0; row < rows; row++)
      s.hidden_scales[row] = quantize_hidden(s.parts_row(row), layer.least_gelu, size, (uint8_t *)s.parts_row(row));
    fill_up(s.hidden_scales, rows);
    product<UNSIGNED>(s.parts, s.chunk, rows, down.weight + begin * SIDE, layer.inner * SIDE, size / STEP, width,
                      nullptr, [&](const int32_t *line, long row, long column) {
                        float *sum = s.sums + row * width + column;
                        lanes scale = all(s.hidden_scales[row]);
                        for (long i = 0; i < SIDE; i += 16)
                          store(sum + i, fused(load(line + i) * scale, load(down.scales + column + i),
                                               before(sum + i, column + i)));
                      });
  }
}

void block(const Layer &layer, const number *x, number *out, const long *lengths, long sequences, long rows,
           bool cls_only, const Scratch &s) {
  long width = layer.width;
  for (long row = 0; row < rows; row++) memcpy(s.x_row(row), x + row * width, width * BYTES);
  // products take the rows that fill up the last 32, too: what memory held before may be denormals, 100 cycles each
  for (long row = rows; row < up_to(rows, SIDE); row++) {
    memset(s.x_row(row), 0, s.wide);
    memset(s.context_row(row), 0, s.wide);
    memset(s.parts_row(row), 0, s.chunk);
  }
  attention(layer, lengths, sequences, rows, s);
  if (cls_only) {
    for (long i = 0, at = 0; i < sequences; at += lengths[i++]) {
      memmove(s.context_row(i), s.context_row(at), width * BYTES);
      memmove(s.x_row(i), s.x_row(at), width * BYTES);
    }
    rows = sequences;
  }
  round_rows(layer.out, s.context, rows, width, s);
  apply(layer.out, s.context, rows, width, 0, width, s, [&](lanes low, lanes high, long row, long column) {
    store(s.sums + row * width + column, low);
    store(s.sums + row * width + column + 16, high);
  });
  for (long row = 0; row < rows; row++)
    add_norm(s.sums + row * width, s.x_row(row), s.x_row(row), width, layer.attention_norm);
  feed_forward(layer, rows, s);
  for (long row = 0; row < rows; row++)
    add_norm(s.sums + row * width, s.x_row(row), out + row * width, width, layer.output_norm);
}

}  // namespace

extern "C" {

// out (tokens, width) = LayerNorm(word[id] + token_type + position[place])
void embed(const Embedding *table, const int64_t *ids, const int64_t *places, long tokens, number *out, float *sums) {
  long width = table->width;
  for (long token = 0; token < tokens; token++) {
    const number *word = table->word + ids[token] * width;
    for (long i = 0; i < width; i += 16)
      store(sums + i, load(word + i) + load(table->token_type + i));
    add_norm(sums, table->position + places[token] * width, out + token * width, width, table->norm);
  }
}

// of the structs that the caller fills, who compares them with its own
extern const long struct_sizes[4] = {sizeof(Norm), sizeof(Linear), sizeof(Embedding), sizeof(Layer)};

// whether the system lets this process use the instructions
int allowed() { return allow(); }

// what a product adds to each signed input
long added() { return FLIPPED ? 128 : 0; }

// (rows, width bytes) weights of 32-bit pairs or fours -> panels
void pack_weight(const void *weight, long rows, long width, void *panels) {
  panels_of_rows(weight, width, rows, width, panels);
}

long scratch_bytes(const Layer *layer, long longest) { return Scratch(nullptr, *layer, longest).bytes; }

// out = layer(x): (tokens, width) -> (tokens, width), or (sequences, width) of first tokens alone
void run_layer(const Layer *layer, const number *x, number *out, const long *lengths, long sequences, long longest,
               int cls_only, char *scratch) {
  Unit unit;
  Scratch s(scratch, *layer, longest);
  memset(s.weights, 0, s.weight_bytes);  // as in `block`
  for (long first = 0, last; first < sequences; first = last) {
    long rows = lengths[first];
    for (last = first + 1; last < sequences && rows + lengths[last] <= BLOCK; last++) rows += lengths[last];
    block(*layer, x, out, lengths + first, last - first, rows, cls_only, s);
    x += rows * layer->width;
    out += (cls_only ? last - first : rows) * layer->width;
  }
}
}
