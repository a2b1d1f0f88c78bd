// Package memory keeps values in memory: at most a given number, of which the
// least recently used leaves first, and each for a given time at most.
package memory

import (
	"iter"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Memory is a bounded map whose entries expire. It is safe for concurrent use.
type Memory[K comparable, V any] struct {
	entries *lru.Cache[K, entry[V]]
	now     func() time.Time
}

type entry[V any] struct {
	value V
	until time.Time // zero: does not expire
}

// New returns an empty Memory of at most size entries, at least one. now is the
// clock by which they expire; it may be nil where Put is not used.
func New[K comparable, V any](size int, now func() time.Time) *Memory[K, V] {
	entries, err := lru.New[K, entry[V]](max(size, 1))
	if err != nil {
		panic(err) // lru.New fails only for a size below one
	}
	return &Memory[K, V]{entries: entries, now: now}
}

// Get returns the value of a key, and whether there is one that has not
// expired.
func (m *Memory[K, V]) Get(key K) (value V, ok bool) {
	e, ok := m.entries.Get(key)
	if !ok || !m.alive(e) {
		return value, false
	}
	return e.value, true
}

func (m *Memory[K, V]) alive(e entry[V]) bool { return e.until.IsZero() || m.now().Before(e.until) }

// Put sets the value of a key for the time life.
func (m *Memory[K, V]) Put(key K, value V, life time.Duration) {
	m.entries.Add(key, entry[V]{value, m.now().Add(life)})
}

// Keep sets the value of a key until it is removed or displaced.
func (m *Memory[K, V]) Keep(key K, value V) { m.entries.Add(key, entry[V]{value: value}) }

// KeepFirst keeps a value as Keep does, unless the key has one that was kept:
// it then returns that one and true.
func (m *Memory[K, V]) KeepFirst(key K, value V) (before V, known bool) {
	e, known, _ := m.entries.PeekOrAdd(key, entry[V]{value: value})
	return e.value, known
}

// Remove removes a key.
func (m *Memory[K, V]) Remove(key K) { m.entries.Remove(key) }

// Len returns the number of entries, which includes those that have expired but
// were not displaced.
func (m *Memory[K, V]) Len() int { return m.entries.Len() }

// Keys returns the keys of all entries, the least recently used first.
func (m *Memory[K, V]) Keys() []K { return m.entries.Keys() }

// All iterates over the entries that have not expired, the least recently used
// first, without using them. It iterates over the keys of one moment; entries
// may come and go meanwhile.
func (m *Memory[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, key := range m.entries.Keys() {
			if e, ok := m.entries.Peek(key); ok && m.alive(e) && !yield(key, e.value) {
				return
			}
		}
	}
}
