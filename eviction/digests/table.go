// Package digests is a table of values by digest, for millions of entries. An
// entry uses some 40 bytes beside its value, a third of what a map of strings
// uses, and has no pointers for the garbage collector to follow. The package
// knows neither what the values mean nor locks.
package digests

import (
	"encoding/binary"
	"encoding/hex"
	"hash/maphash"

	"github.com/opencontainers/go-digest"
)

// Ref is the place of an entry from Add to Remove. The zero Ref is none.
type Ref uint32

// Table maps digests to values of a type without pointers. It is not safe for
// concurrent use. New returns one.
type Table[V any] struct {
	seed   maphash.Seed
	shards [shards][]Ref // open addressing, by the key's hash; each a power of two long
	used   [shards]int

	chunks [][]entry[V] // entries never move
	next   Ref          // of the first entry that was never used
	free   []Ref        // of removed entries
	other  map[Ref]digest.Digest
}

// A table grows by one shard at a time, so that no call waits for all of it.
const shards = 256

// chunk is how many entries are allocated at a time.
const chunk = 512

type entry[V any] struct {
	key   key
	kind  kind
	value V
}

// key is the hash of a SHA-256 digest, or a hash of any other digest, which is
// then kept in Table.other.
type key [32]byte

type kind uint8

const (
	unused kind = iota
	sha256
	other
)

// New returns an empty table.
func New[V any]() *Table[V] {
	return &Table[V]{seed: maphash.MakeSeed(), next: 1, other: make(map[Ref]digest.Digest)}
}

// Find returns the entry of d; ok is false if there is none.
func (t *Table[V]) Find(d digest.Digest) (r Ref, ok bool) {
	k, kind := keyOf(d)
	refs, at := t.place(k)
	for len(refs) > 0 && refs[at] != 0 {
		if e := t.entry(refs[at]); e.key == k && e.kind == kind && (kind == sha256 || t.other[refs[at]] == d) {
			return refs[at], true
		}
		at = (at + 1) & (len(refs) - 1)
	}
	return 0, false
}

// At returns the value of an entry. The pointer is valid until Remove.
func (t *Table[V]) At(r Ref) *V { return &t.entry(r).value }

// Digest returns the digest of an entry.
func (t *Table[V]) Digest(r Ref) digest.Digest {
	e := t.entry(r)
	if e.kind == other {
		return t.other[r]
	}
	var text [len(prefix) + 2*len(e.key)]byte
	hex.Encode(text[copy(text[:], prefix):], e.key[:])
	return digest.Digest(text[:])
}

// prefix is what the digests begin with that are kept as they are.
const prefix = "sha256:"

// Add adds an entry for d, which must not have one, with a zero value.
func (t *Table[V]) Add(d digest.Digest) Ref {
	r := t.unused()
	e := t.entry(r)
	if e.key, e.kind = keyOf(d); e.kind == other {
		t.other[r] = d
	}
	shard := t.shard(e.key)
	if refs := t.shards[shard]; 4*(t.used[shard]+1) > 3*len(refs) {
		t.shards[shard] = make([]Ref, max(2*len(refs), 8))
		for _, r := range refs {
			t.insert(r)
		}
	}
	t.insert(r)
	t.used[shard]++
	return r
}

// insert enters an entry into its shard, which has room for it.
func (t *Table[V]) insert(r Ref) {
	if r == 0 {
		return
	}
	refs, at := t.place(t.entry(r).key)
	for refs[at] != 0 {
		at = (at + 1) & (len(refs) - 1)
	}
	refs[at] = r
}

// Remove removes an entry.
func (t *Table[V]) Remove(r Ref) {
	e := t.entry(r)
	refs, at := t.place(e.key)
	for refs[at] != r {
		at = (at + 1) & (len(refs) - 1)
	}
	refs[at] = 0
	t.used[t.shard(e.key)]--
	// A search ends at the next gap, so the entries up to there are inserted
	// again.
	for at = (at + 1) & (len(refs) - 1); refs[at] != 0; at = (at + 1) & (len(refs) - 1) {
		moved := refs[at]
		refs[at] = 0
		t.insert(moved)
	}
	*e = entry[V]{}
	delete(t.other, r)
	t.free = append(t.free, r)
}

// Some calls visit with up to n entries from r on, in no order, and returns the
// Ref to continue with. The zero Ref is the beginning, and returned at the end.
// The table may change between two calls: entries added meanwhile may not be
// visited.
func (t *Table[V]) Some(r Ref, n int, visit func(Ref)) (next Ref) {
	for r = max(r, 1); n > 0 && r < t.next; r++ {
		if t.entry(r).kind != unused {
			visit(r)
			n--
		}
	}
	if r == t.next {
		return 0
	}
	return r
}

// Holds reports whether there is an entry at r.
func (t *Table[V]) Holds(r Ref) bool { return r > 0 && r < t.next && t.entry(r).kind != unused }

// unused returns an entry that is not in use.
func (t *Table[V]) unused() Ref {
	if last := len(t.free) - 1; last >= 0 {
		r := t.free[last]
		t.free = t.free[:last]
		return r
	}
	if int(t.next-1) == len(t.chunks)*chunk {
		t.chunks = append(t.chunks, make([]entry[V], chunk))
	}
	t.next++
	return t.next - 1
}

func (t *Table[V]) entry(r Ref) *entry[V] { return &t.chunks[(r-1)/chunk][(r-1)%chunk] }

// place returns where the search for a key begins.
func (t *Table[V]) place(k key) (refs []Ref, at int) {
	h := maphash.Bytes(t.seed, k[:])
	if refs = t.shards[h%shards]; len(refs) == 0 {
		return nil, 0
	}
	return refs, int(h/shards%(1<<32)) & (len(refs) - 1)
}

func (t *Table[V]) shard(k key) int { return int(maphash.Bytes(t.seed, k[:]) % shards) }

func keyOf(d digest.Digest) (k key, of kind) {
	if len(d) == len(prefix)+2*len(k) && d[:len(prefix)] == prefix {
		var digits [2 * len(k)]byte
		copy(digits[:], d[len(prefix):])
		if _, err := hex.Decode(k[:], digits[:]); err == nil && lower(digits[:]) {
			return k, sha256
		}
	}
	k = key{}
	binary.LittleEndian.PutUint64(k[:], maphash.String(otherSeed, string(d)))
	return k, other
}

// lower reports whether the digits are lower-case, as Digest returns them.
func lower(digits []byte) bool {
	for _, c := range digits {
		if 'A' <= c && c <= 'F' {
			return false
		}
	}
	return true
}

var otherSeed = maphash.MakeSeed()
