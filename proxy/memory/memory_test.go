package memory

import (
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New[string, int](10, time.Now)
		m.Put("short", 1, time.Minute)
		m.Put("long", 2, time.Hour)
		m.Keep("kept", 3)
		time.Sleep(time.Minute - 1)
		if v, ok := m.Get("short"); v != 1 || !ok {
			t.Errorf("before its end: %d, %v", v, ok)
		}
		time.Sleep(time.Nanosecond)
		if v, ok := m.Get("short"); v != 0 || ok {
			t.Errorf("at its end: %d, %v", v, ok)
		}
		if got, want := maps.Collect(m.All()), map[string]int{"long": 2, "kept": 3}; !maps.Equal(got, want) {
			t.Errorf("All = %v, want %v", got, want)
		}
		m.Put("short", 4, time.Minute)
		if v, ok := m.Get("short"); v != 4 || !ok {
			t.Errorf("put again: %d, %v", v, ok)
		}
		m.Remove("short")
		if _, ok := m.Get("short"); ok {
			t.Error("there after Remove")
		}
		time.Sleep(10 * 365 * 24 * time.Hour)
		if v, ok := m.Get("kept"); v != 3 || !ok {
			t.Errorf("kept: %d, %v", v, ok)
		}
	})
}

func TestBound(t *testing.T) {
	m := New[int, int](2, nil)
	m.Keep(1, 1)
	m.Keep(2, 2)
	m.Get(1)
	for range m.All() { // does not count as a use
	}
	m.Keep(3, 3)
	if got, want := maps.Collect(m.All()), map[int]int{1: 1, 3: 3}; !maps.Equal(got, want) || m.Len() != 2 {
		t.Errorf("All = %v, want %v; Len = %d", got, want, m.Len())
	}
	if before, known := m.KeepFirst(3, 4); before != 3 || !known {
		t.Errorf("a key that is kept: %d, %v", before, known)
	}
	if before, known := m.KeepFirst(4, 4); before != 0 || known {
		t.Errorf("a new key: %d, %v", before, known)
	}
	for range m.All() {
		break
	}
	New[int, int](0, nil).Keep(1, 1)
}
