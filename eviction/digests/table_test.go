package digests

import (
	_ "crypto/sha512"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func name(i int) digest.Digest {
	if i%7 == 0 {
		return digest.SHA512.FromString(fmt.Sprint(i))
	}
	return digest.FromString(fmt.Sprint(i))
}

// TestTableAgainstMap compares a table with a map, for long enough that entries are used
// again, and shards grow and become empty.
func TestTableAgainstMap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	table, want := New[int](), make(map[digest.Digest]int)
	for step := range 200_000 {
		d := name(random.IntN(6000))
		r, ok := table.Find(d)
		value, known := want[d]
		if ok != known || ok && (*table.At(r) != value || table.Digest(r) != d || !table.Holds(r)) {
			t.Fatalf("step %d: %s is there: %v, want %v", step, d, ok, known)
		}
		switch grow := step/50_000%2 == 0; {
		case ok && (!grow || random.IntN(3) == 0):
			table.Remove(r)
			delete(want, d)
		case ok:
			*table.At(r), want[d] = step, step
		case grow || random.IntN(3) == 0:
			r := table.Add(d)
			if *table.At(r) != 0 {
				t.Fatalf("step %d: a new entry has the value of an old one", step)
			}
			*table.At(r), want[d] = step, step
		}
		if table.entries() != len(want) {
			t.Fatalf("step %d: %d entries, want %d", step, table.entries(), len(want))
		}
	}
	seen := 0
	for r := Ref(0); ; {
		r = table.Some(r, 100, func(r Ref) {
			seen++
			if value, known := want[table.Digest(r)]; !known || value != *table.At(r) {
				t.Errorf("%s is visited", table.Digest(r))
			}
		})
		if r == 0 {
			break
		}
	}
	if seen != len(want) {
		t.Errorf("%d entries are visited, want %d", seen, len(want))
	}
}

// TestUnusualDigests shows that digests of any form are distinguished.
func TestUnusualDigests(t *testing.T) {
	plain := name(1)
	all := []digest.Digest{
		plain, "", "sha256:", digest.Digest(strings.ToUpper(string(plain))), "sha256:" + digest.Digest(strings.Repeat("A", 64)),
		"sha256:" + digest.Digest(strings.Repeat("a", 64)), "sha256:" + digest.Digest(strings.Repeat("x", 64)), "sha512:" + digest.Digest(plain.Encoded()),
		digest.SHA512.FromString("x"), digest.SHA384.FromString("x"),
	}
	table := New[int]()
	for i, d := range all {
		*table.At(table.Add(d)) = i
	}
	for i, d := range all {
		if r, ok := table.Find(d); !ok || *table.At(r) != i || table.Digest(r) != d {
			t.Errorf("%q is not what was put in", d)
		}
	}
}

// TestFindAllocatesNothing: Find is called for every request.
func TestFindAllocatesNothing(t *testing.T) {
	table, d := New[int](), name(1)
	table.Add(d)
	if n := testing.AllocsPerRun(100, func() { table.Find(d) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkTable has a million entries, and prints what one takes in memory.
func BenchmarkTable(b *testing.B) {
	const n = 1_000_000
	all := make([]digest.Digest, n)
	for i := range all {
		all[i] = digest.FromString(fmt.Sprint(i))
	}
	inUse := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := inUse()
	table := New[[3]int64]()
	for _, d := range all {
		table.Add(d)
	}
	size := float64(inUse()-before) / n
	i := 0
	for b.Loop() {
		if _, ok := table.Find(all[i%n]); !ok {
			b.Fatal("not there")
		}
		i++
	}
	b.ReportMetric(size, "B/entry")
}

// entries returns how many entries there are.
func (t *Table[V]) entries() int { return int(t.next) - 1 - len(t.free) }
