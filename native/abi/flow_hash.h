/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * flow_hash.h: the hash of a flow key, the same in the engine (C++) and in the XDP program (C, which has no 128-bit
 * product). NH of UMAC (RFC 4418 section 5.2.2) over the key's ten 32-bit halves: keyed and universal, two keys collide
 * with a chance of 2^-32 for whoever does not know the keys; then mixed, because tags and buckets are cut from all its bits.
 */
#ifndef SLUICE_FLOW_HASH_H
#define SLUICE_FLOW_HASH_H

#include "dataplane.h"

#define SL_NH_STEP(word, key) ((sl_u64)((sl_u32)(word) + (sl_u32)(key)) * (sl_u32)((sl_u32)((word) >> 32) + (sl_u32)((key) >> 32)))

/* words: the key as five little-endian words; keys: random. Half-way: enough to choose among few places by its high bits. */
static inline __attribute__((always_inline)) sl_u64 sl_flow_half_hash(const sl_u64 words[5], const sl_u64 keys[5])
{
	sl_u64 h = SL_NH_STEP(words[0], keys[0]) + SL_NH_STEP(words[1], keys[1]) + SL_NH_STEP(words[2], keys[2]) +
		   SL_NH_STEP(words[3], keys[3]) + SL_NH_STEP(words[4], keys[4]);

	h ^= h >> 32;
	return h * 0xd6e8feb86659fd93ull;
}

static inline __attribute__((always_inline)) sl_u64 sl_flow_whole_hash(sl_u64 h)
{
	h ^= h >> 32;
	h *= 0xd6e8feb86659fd93ull;
	return h ^ h >> 32;
}

static inline __attribute__((always_inline)) sl_u64 sl_flow_hash(const sl_u64 words[5], const sl_u64 keys[5])
{
	return sl_flow_whole_hash(sl_flow_half_hash(words, keys));
}

/* Of a hash: the tag in its bucket, and the two buckets that may hold the key. */
static inline __attribute__((always_inline)) sl_u16 sl_flow_tag(sl_u64 hash) { return (sl_u16)(hash >> 48) ? (sl_u16)(hash >> 48) : 1; }
static inline __attribute__((always_inline)) sl_u32 sl_flow_first_bucket(sl_u64 hash, sl_u32 mask) { return (sl_u32)hash & mask; }
static inline __attribute__((always_inline)) sl_u32 sl_flow_second_bucket(sl_u64 hash, sl_u32 mask)
{
	sl_u32 second = (sl_u32)(hash >> 20) & mask;

	return second == ((sl_u32)hash & mask) ? second ^ 1 : second;
}

#endif
