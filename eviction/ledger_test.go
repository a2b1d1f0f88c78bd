package eviction

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/metrics"
)

const kib = 1 << 10

func newTestLedger(limit int64) *Ledger {
	return NewLedger(LedgerOptions{
		Limit: limit, SmallSize: 16 * kib, SmallShare: 0.25, High: 1, Low: 0.75,
		Now: time.Now, Metrics: metrics.New().Space,
	})
}

func name(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }

// fill reserves and commits objects i… of size bytes.
func fill(t *testing.T, l *Ledger, size int64, ids ...int) {
	t.Helper()
	for _, i := range ids {
		if err := l.Reserve(size); err != nil {
			t.Fatalf("Reserve(%d) for %d: %v", size, i, err)
		}
		l.Commit(name(i), size, size)
	}
}

func TestReserve(t *testing.T) {
	for _, tc := range []struct {
		name     string
		held     []int64 // sizes committed before
		reserved int64
		overhead int64
		ask      int64
		want     error
	}{
		{name: "empty", ask: 1024 * kib},
		{name: "all of it but a block", ask: 1020 * kib},
		{name: "one byte rounds up to a block", held: []int64{1020 * kib}, ask: 1},
		{name: "too large", ask: 1024*kib + 1, want: ErrTooLarge},
		{name: "too large beside the index", overhead: 4 * kib, ask: 1024 * kib, want: ErrTooLarge},
		{name: "full", held: []int64{1000 * kib}, ask: 100 * kib, want: ErrNoRoom},
		{name: "reserved counts", reserved: 1000 * kib, ask: 100 * kib, want: ErrNoRoom},
		{name: "index counts", overhead: 1000 * kib, ask: 24 * kib},
		{name: "index leaves no room", overhead: 1000 * kib, held: []int64{20 * kib}, ask: 20 * kib, want: ErrNoRoom},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newTestLedger(1024 * kib)
			l.SetOverhead(tc.overhead)
			for i, size := range tc.held {
				fill(t, l, size, i)
			}
			if err := l.Reserve(tc.reserved); err != nil {
				t.Fatal(err)
			}
			if err := l.Reserve(tc.ask); !errors.Is(err, tc.want) {
				t.Errorf("Reserve(%d) = %v, want %v", tc.ask, err, tc.want)
			}
		})
	}
}

func TestMakeRoomEvictsLeastRecentlyUsed(t *testing.T) {
	l := newTestLedger(400 * kib)
	fill(t, l, 100*kib, 1, 2, 3, 4)
	l.Touch(name(1))
	if got, want := l.MakeRoom(100*kib), []digest.Digest{name(2)}; !slices.Equal(got, want) {
		t.Fatalf("evicted %v, want %v", got, want)
	}
	if err := l.Reserve(100 * kib); !errors.Is(err, ErrNoRoom) {
		t.Fatalf("evicted bytes must count until freed: Reserve = %v", err)
	}
	size, evicted := l.Evicted(name(2))
	if !evicted || size != 100*kib {
		t.Fatalf("Doomed = %d, %v", size, evicted)
	}
	l.Unlinked(name(2))
	if err := l.Reserve(100 * kib); !errors.Is(err, ErrNoRoom) {
		t.Fatalf("unlinked bytes must count until freed: Reserve = %v", err)
	}
	l.Freed(size)
	if err := l.Reserve(100 * kib); err != nil {
		t.Fatalf("Reserve after Freed: %v", err)
	}
}

func TestMakeRoomThatCannotHelpEvictsNothing(t *testing.T) {
	l := newTestLedger(400 * kib)
	fill(t, l, 100*kib, 1)
	if err := l.Reserve(200 * kib); err != nil {
		t.Fatal(err)
	}
	if got := l.MakeRoom(300 * kib); got != nil {
		t.Errorf("evicted %v for an object that does not fit beside the reserved ones", got)
	}
}

func TestSmallObjectsOutliveLayers(t *testing.T) {
	l := newTestLedger(400 * kib) // the small segment's share is 100 KiB
	fill(t, l, 8*kib, 1, 2, 3)
	for i := 10; i < 30; i++ {
		l.MakeRoomAndFree(100 * kib)
		fill(t, l, 100*kib, i)
	}
	for i := 1; i <= 3; i++ {
		if _, held := l.Touch(name(i)); !held {
			t.Errorf("small object %d was pushed out by layers", i)
		}
	}
}

func TestSmallSegmentGivesWhatItHoldsBeyondItsShare(t *testing.T) {
	l := newTestLedger(400 * kib)
	for i := range 40 { // 320 KiB of small objects, and no other objects
		fill(t, l, 8*kib, i)
	}
	fill(t, l, 60*kib, 100)
	l.MakeRoomAndFree(100 * kib)
	fill(t, l, 100*kib, 101)
	if _, held := l.Touch(name(100)); !held {
		t.Error("a layer was evicted although the small segment was above its share")
	}
	if _, held := l.Touch(name(0)); held {
		t.Error("the oldest small object is still there")
	}
}

func TestSweepGoesFromHighToLow(t *testing.T) {
	l := NewLedger(LedgerOptions{Limit: 1000 * kib, SmallSize: kib, High: 0.9, Low: 0.5, Now: time.Now, Metrics: metrics.New().Space})
	fill(t, l, 100*kib, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	if got := l.Sweep(); got != nil {
		t.Fatalf("at the high watermark: evicted %v", got)
	}
	fill(t, l, 100*kib, 10)
	if got := l.Sweep(); len(got) != 5 || got[0] != name(1) {
		t.Fatalf("evicted %d objects, want the five oldest", len(got))
	}
}

// MakeRoomAndFree evicts and gives the bytes back at once, as a janitor does.
func (l *Ledger) MakeRoomAndFree(size int64) {
	for _, d := range l.MakeRoom(size) {
		n, _ := l.Evicted(d)
		l.Unlinked(d)
		l.Freed(n)
	}
}

// TestLedgerAgainstModel drives random operations and compares the sums with
// those of a plain map.
func TestLedgerAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	const limit = 4096 * kib
	l := newTestLedger(limit)
	model := map[digest.Digest]int64{}
	var reserved []int64
	for range 20_000 {
		switch rnd.IntN(6) {
		case 0, 1:
			size := rnd.Int64N(300 * kib)
			l.MakeRoomAndFreeModel(size, model)
			if l.Reserve(size) == nil {
				reserved = append(reserved, size)
			}
		case 2:
			if n := len(reserved); n > 0 {
				size, d := reserved[n-1], name(rnd.IntN(500))
				reserved = reserved[:n-1]
				if _, held := model[d]; held {
					l.Release(size)
					continue
				}
				l.Commit(d, size, size)
				model[d] = size
			}
		case 3:
			if n := len(reserved); n > 8 {
				l.Release(reserved[n-1])
				reserved = reserved[:n-1]
			}
		case 4:
			d := name(rnd.IntN(500))
			size, held := l.Touch(d)
			if want, ok := model[d]; held != ok || held && size != want {
				t.Fatalf("Touch = %d, %v; want %d, %v", size, held, want, ok)
			}
		case 5:
			d := name(rnd.IntN(500))
			l.Evict(d)
			l.unlinkNow(d)
			delete(model, d)
		}
		check(t, l, model, reserved, limit)
	}
}

// MakeRoomAndFreeModel is MakeRoomAndFree, and updates a model.
func (l *Ledger) MakeRoomAndFreeModel(size int64, model map[digest.Digest]int64) {
	for _, d := range l.MakeRoom(size) {
		n, _ := l.Evicted(d)
		l.Unlinked(d)
		l.Freed(n)
		delete(model, d)
	}
}

func check(t *testing.T, l *Ledger, model map[digest.Digest]int64, reserved []int64, limit int64) {
	t.Helper()
	s := l.Status()
	var held, promised int64
	for _, size := range model {
		held += onDisk(size)
	}
	for _, size := range reserved {
		promised += onDisk(size)
	}
	if got := s.Segments[Small].Bytes + s.Segments[Large].Bytes; got != held || s.Reserved != promised || s.Evicted != 0 {
		t.Fatalf("held %d reserved %d evicted %d, want %d, %d, 0", got, s.Reserved, s.Evicted, held, promised)
	}
	if held+promised > limit {
		t.Fatalf("%d bytes of %d", held+promised, limit)
	}
}

// disk is a Remover and a file system in one: a set of names.
type disk struct {
	ledger *Ledger
	free   int64
}

func (d *disk) Remove(name digest.Digest) {
	size, evicted := d.ledger.Evicted(name)
	if !evicted {
		return
	}
	d.ledger.Unlinked(name)
	d.ledger.Freed(size)
	d.free += size
}

func TestJanitorKeepsTheFloor(t *testing.T) {
	l := newTestLedger(1000 * kib)
	d := &disk{ledger: l, free: 500 * kib}
	j := NewJanitor(JanitorOptions{
		Ledger: l, Remover: d, MinFree: 400 * kib,
		Free: func() (int64, error) { return d.free, nil }, Log: slog.New(slog.DiscardHandler),
	})
	if err := j.Reserve(100 * kib); err != nil {
		t.Fatalf("above the floor: %v", err)
	}
	l.Commit(name(1), 100*kib, 100*kib)
	d.free -= 100 * kib
	if err := j.Reserve(60 * kib); err != nil {
		t.Fatalf("evicting one object makes room: %v", err)
	}
	if _, held := l.Touch(name(1)); held {
		t.Error("nothing was evicted")
	}
	if err := j.Reserve(200 * kib); !errors.Is(err, ErrNoRoom) {
		t.Errorf("below the floor with nothing to evict: %v, want ErrNoRoom", err)
	}
}

func BenchmarkTouch(b *testing.B) {
	l := newTestLedger(1 << 40)
	for i := range 100_000 {
		l.Adopt(name(i), 5<<20, time.Now(), false)
	}
	hot := name(7)
	b.ReportAllocs()
	for b.Loop() {
		l.Touch(hot)
	}
}

// BenchmarkMemory reports the bytes that the ledger uses for an object, its
// name aside, at a million objects.
func BenchmarkMemory(b *testing.B) {
	const objects = 1_000_000
	names := make([]digest.Digest, objects)
	for i := range names {
		names[i] = name(i)
	}
	for b.Loop() {
		before := heap()
		l := newTestLedger(1 << 50)
		for _, d := range names {
			l.Adopt(d, 5<<20, time.Now(), false)
		}
		b.ReportMetric(float64(heap()-before)/objects, "B/object")
		runtime.KeepAlive(l)
	}
	runtime.KeepAlive(names)
}

// heap is the bytes in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
