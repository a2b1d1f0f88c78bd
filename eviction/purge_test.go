package eviction

import "testing"

// TestPurge: what an operator names goes, pinned or partial; a dry run says how much
// and leaves it.
func TestPurge(t *testing.T) {
	l := newTestLedger(1000 * kib)
	fill(t, l, 100*kib, 1, 2)
	l.pinOnly(2)
	if err := l.Reserve(52 * kib); err != nil {
		t.Fatal(err)
	}
	l.Park(name(3), 52*kib)
	for i, want := range map[int]int64{1: 100 * kib, 2: 100 * kib, 3: 52 * kib} {
		for _, dryRun := range []bool{true, false} {
			if size, held := l.Purge(name(i), dryRun); size != want || !held {
				t.Errorf("object %d, dry run %v: %d bytes, %v", i, dryRun, size, held)
			}
		}
		if _, held := l.Purge(name(i), false); held || l.Holds(name(i)) {
			t.Errorf("object %d is still there", i)
		}
		if size, evicted := l.Evicted(name(i)); size != want || !evicted {
			t.Errorf("object %d: %d bytes are to be freed", i, size)
		}
	}
	if s := l.Status(); s.Used() != 252*kib || s.Evicted != 252*kib {
		t.Errorf("%+v", s)
	}
}
