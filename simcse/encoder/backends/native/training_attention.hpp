// Attention of a training step over a flat run of sequences, a sequence and a head at a time: what training.cpp exports.
//
// Scores, softmax, dropout and products stay in the cache; memory sees queries, keys, values, weights and their
// gradients once each. Products are in float32: of matrices this small, reading and turning them is most of the work.
// The dropout mask is drawn from a counter, and drawn again on the way back.

#pragma once

#include <stdlib.h>

namespace {

// Sequences of one batch. Row `starts[s] + i` of queries, keys and values is token i of sequence s; where `first`, there
// is one query a sequence, in row s.
struct Batch {
  const int64_t *starts, *lengths, *offsets;  // offsets: numbers of weights before each sequence
  long sequences, heads, width, first;        // width of one head, a multiple of 32
  uint64_t seed;
  uint32_t drop;  // of 65,536 weights; none for 0

  long queries(long s) const { return first ? 1 : lengths[s]; }
  long query_row(long s) const { return first ? s : starts[s]; }
  static long rounded(long count) { return (count + 31) / 32 * 32; }
};

constexpr long QUERIES = 64;  // of a sequence at a time

#ifdef __AVX512F__
constexpr int TILE_ROWS = 8, TILE_COLUMNS = 2;  // of lanes: what the registers hold
#else
constexpr int TILE_ROWS = 4, TILE_COLUMNS = 1;
#endif

// a matrix in float32 whose elements lie `row` and `column` apart
struct Left { const float *at; long row, column; };

// out (rows, columns) = or += left (rows, inner) right (inner, columns); columns are a multiple of 32, and rows are
// rounded up to whole tiles: there is room for them
inline void product(Left left, const float *right, long rows, long inner, float *out, long columns, bool add = false) {
  for (long column = 0; column < columns; column += 16 * TILE_COLUMNS)
    for (long row = 0; row < rows; row += TILE_ROWS) {
      const float *at = left.at + row * left.row, *line = right + column;
      float *to = out + row * columns + column;
      lanes sums[TILE_ROWS][TILE_COLUMNS];
#pragma GCC unroll 16
      for (int i = 0; i < TILE_ROWS * TILE_COLUMNS; i++) {
        int own = i / TILE_COLUMNS, part = i % TILE_COLUMNS;
        sums[own][part] = add ? load(to + own * columns + 16 * part) : all(0);
      }
      for (long k = 0; k < inner; k++, at += left.column, line += columns) {
        lanes parts[TILE_COLUMNS];
#pragma GCC unroll 2
        for (int part = 0; part < TILE_COLUMNS; part++) parts[part] = load(line + 16 * part);
#pragma GCC unroll 16
        for (int i = 0; i < TILE_ROWS * TILE_COLUMNS; i++) {
          int own = i / TILE_COLUMNS, part = i % TILE_COLUMNS;
          sums[own][part] = fused(all(at[own * left.row]), parts[part], sums[own][part]);
        }
      }
#pragma GCC unroll 16
      for (int i = 0; i < TILE_ROWS * TILE_COLUMNS; i++)
        store(to + i / TILE_COLUMNS * columns + 16 * (i % TILE_COLUMNS), sums[i / TILE_COLUMNS][i % TILE_COLUMNS]);
    }
}

// out (rows, width) in float32 = rows of numbers, `apart` from one to the next; zeros behind them up to `whole` rows
inline void widen(const number *from, long apart, long rows, long whole, long width, float *out) {
  for (long row = 0; row < rows; row++)
    for (long i = 0; i < width; i += 16) store(out + row * width + i, load(from + row * apart + i));
  memset(out + rows * width, 0, (whole - rows) * width * sizeof(float));
}

inline void narrow(const float *from, long rows, long width, number *out, long apart) {
  for (long row = 0; row < rows; row++)
    for (long i = 0; i < width; i += 32)
      store(out + row * apart + i, load(from + row * width + i), load(from + row * width + i + 16));
}

// out (width, rows) = its turned-over; both are multiples of 16
inline void turn(const float *from, long rows, long width, float *out) {
  for (long row = 0; row < rows; row += 16)
    for (long i = 0; i < width; i += 16)
      transpose((const char *)(from + row * width + i), width * 4, (char *)(out + i * rows + row), rows * 4);
}

// scores (keys) = weights = their softmax over the first `real`, 0 behind them
inline void softmax(float *scores, long real, long keys, number *weights) {
  lanes most = all(-INFINITY), sum = all(0), scale = all(1.44269504f);
  for (long key = 0; key < keys; key += 16) most = larger(most, load_first(scores + key, real - key, all(-INFINITY)));
  most = all(largest(most));
  for (long key = 0; key < keys; key += 16) {
    lanes power = keep_first(exp2((load(scores + key) - most) * scale), real - key);
    sum = sum + power;
    store(scores + key, power);
  }
  lanes share = all(1.0f / total(sum));
  for (long key = 0; key < keys; key += 32) {
    lanes low = load(scores + key) * share, high = load(scores + key + 16) * share;
    store(scores + key, low), store(scores + key + 16, high);
    store(weights + key, low, high);
  }
}

// keep (count) of the weights that begin `at`; both are multiples of 32
inline void draw_keep(const Batch &batch, long at, long count, float *keep) {
  for (long i = 0; i < count; i += 256)
    keep_some(batch.seed, (at + i) / 4, batch.drop, count - i, 1.0f, keep + i);
}

// room for matrices of a sequence and a head, one after another
struct Room {
  float *begin, *next;
  explicit Room(long floats) : begin((float *)aligned_alloc(64, (floats * 4 + 63) / 64 * 64)), next(begin) {}
  ~Room() { free(begin); }
  Room(const Room &) = delete;
  float *take(long floats) { return next += floats, next - floats; }
};

inline long most_keys(const Batch &batch) {
  long most = 32;
  for (long s = 0; s < batch.sequences; s++)
    if (long keys = Batch::rounded(batch.lengths[s]); keys > most) most = keys;
  return most;
}

void attention_of(const Batch &batch, const number *query, const number *key_value, number *weights, number *context,
                  long threads) {
  long d = batch.width, width = batch.heads * d, most = most_keys(batch);
  split(batch.sequences * batch.heads, threads, [&](long, long begin, long end) {
    Room room(3 * most * d + 2 * QUERIES * (d + most));
    float *k = room.take(most * d), *v = room.take(most * d), *turned = room.take(most * d);
    float *q = room.take(QUERIES * d), *out = room.take(QUERIES * d);
    float *scores = room.take(QUERIES * most), *keep = room.take(QUERIES * most);
    for (long at = begin; at < end; at++) {
      long s = at / batch.heads, head = at % batch.heads, real = batch.lengths[s], keys = Batch::rounded(real);
      long queries = batch.queries(s), from = batch.query_row(s) * width + head * d;
      const number *own = key_value + batch.starts[s] * 2 * width + head * d;
      widen(own, 2 * width, real, keys, d, k);
      widen(own + width, 2 * width, real, keys, d, v);
      turn(k, keys, d, turned);
      for (long first = 0; first < queries; first += QUERIES) {
        long count = queries - first < QUERIES ? queries - first : QUERIES;
        long whole = (count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS, place = batch.offsets[s] + (head * queries + first) * keys;
        widen(query + from + first * width, width, count, whole, d, q);
        product({q, d, 1}, turned, count, d, scores, keys);
        for (long row = 0; row < count; row++)
          softmax(scores + row * keys, real, keys, weights + place + row * keys);
        if (batch.drop) {
          draw_keep(batch, place, count * keys, keep);
          for (long i = 0; i < count * keys; i += 16) store(scores + i, load(scores + i) * load(keep + i));
        }
        product({scores, keys, 1}, v, count, real, out, d);
        narrow(out, count, d, context + from + first * width, width);
      }
    }
  });
}

void attention_gradients(const Batch &batch, const number *grad, const number *query, const number *key_value,
                         const number *weights, number *query_grad, number *key_value_grad, long threads) {
  long d = batch.width, width = batch.heads * d, most = most_keys(batch);
  split(batch.sequences * batch.heads, threads, [&](long, long begin, long end) {
    Room room(5 * most * d + 3 * QUERIES * (d + most));
    float *k = room.take(most * d), *v = room.take(most * d), *turned = room.take(most * d);
    float *k_grad = room.take(most * d), *v_grad = room.take(most * d);
    float *q = room.take(QUERIES * d), *q_grad = room.take(QUERIES * d), *g = room.take(QUERIES * d);
    float *slopes = room.take(QUERIES * most), *dropped = room.take(QUERIES * most), *keep = room.take(QUERIES * most);
    for (long i = 0; i < QUERIES * most; i++) keep[i] = 1;
    for (long at = begin; at < end; at++) {
      long s = at / batch.heads, head = at % batch.heads, real = batch.lengths[s], keys = Batch::rounded(real);
      long queries = batch.queries(s), from = batch.query_row(s) * width + head * d;
      long own = batch.starts[s] * 2 * width + head * d;
      widen(key_value + own, 2 * width, real, keys, d, k);
      widen(key_value + own + width, 2 * width, real, keys, d, v);
      turn(v, keys, d, turned);
      for (long first = 0; first < queries; first += QUERIES) {
        long count = queries - first < QUERIES ? queries - first : QUERIES;
        long whole = (count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS, place = batch.offsets[s] + (head * queries + first) * keys;
        widen(query + from + first * width, width, count, whole, d, q);
        widen(grad + from + first * width, width, count, whole, d, g);
        product({g, d, 1}, turned, count, d, slopes, keys);
        if (batch.drop) draw_keep(batch, place, count * keys, keep);
        for (long row = 0; row < count; row++) {
          const number *weight = weights + place + row * keys;
          float *slope = slopes + row * keys, *kept = dropped + row * keys, *mask_row = keep + row * keys;
          lanes along = all(0);
          for (long key = 0; key < keys; key += 16) {
            lanes mask = load(mask_row + key), back = load(slope + key) * mask, w = load(weight + key);
            along = fused(back, w, along);
            store(slope + key, back), store(kept + key, w * mask);
          }
          lanes mean = all(total(along));
          for (long key = 0; key < keys; key += 16)
            store(slope + key, (load(slope + key) - mean) * load(weight + key));
        }
        product({dropped, 1, keys}, g, real, count, v_grad, d, first > 0);
        product({slopes, 1, keys}, q, real, count, k_grad, d, first > 0);
        product({slopes, keys, 1}, k, count, real, q_grad, d);
        narrow(q_grad, count, d, query_grad + from + first * width, width);
      }
      narrow(k_grad, real, d, key_value_grad + own, 2 * width);
      narrow(v_grad, real, d, key_value_grad + own + width, 2 * width);
    }
  });
}

}  // namespace
