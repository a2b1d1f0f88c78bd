package index

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

func pins(t *testing.T, x *Index) (all []PinRecord) {
	t.Helper()
	for r, err := range x.Pins() {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// TestPins shows that pins survive closing, the loss of the index right after they
// were set, and that one that was removed does not come back.
func TestPins(t *testing.T) {
	dir := t.TempDir()
	x := reopen(t, dir)
	d := digest.FromString("d")
	want := []PinRecord{
		{PinName{"docker.io", "library/nginx", "1.27"}, Pin{
			Platforms: []string{"linux/amd64", "linux/arm/v7"}, Until: time.Unix(2e9, 0).UTC(), Note: "for the fair", By: "file",
			At: time.Unix(1e9, 0).UTC(), Held: d, Pulled: []string{"linux/amd64"},
		}},
		{PinName{"docker.io", "library/nginx", d.String()}, Pin{At: time.Unix(1, 0).UTC()}},
	}
	gone := PinRecord{PinName{"ghcr.io", "acme/app", "latest"}, Pin{At: time.Unix(1, 0).UTC()}}
	if err := x.PutPins(want[1], want[0], gone); err != nil {
		t.Fatal(err)
	}
	if err := x.DeletePins(gone.PinName); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []PinRecord{{}, {PinName: PinName{"a", "b\x00", "c"}}, {gone.PinName, Pin{Note: strings.Repeat("x", maxLine)}}} {
		if err := x.PutPins(bad); err == nil {
			t.Errorf("%+v was written", bad.PinName)
		}
	}
	check := func(when string) {
		t.Helper()
		if got := pins(t, x); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", when, got)
		}
	}
	check("now")
	for deadline := time.Now().Add(testkit.Patience); ; time.Sleep(time.Millisecond) { // written although Interval is long
		if n, err := snapshotRecords(filepath.Join(dir, snapshotName)); err == nil && n == len(want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no snapshot of the pins")
		}
	}
	saved, err := os.ReadFile(filepath.Join(dir, snapshotName))
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x = reopen(t, dir)
	check("after closing")
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	lose(t, dir)
	if err := os.WriteFile(filepath.Join(dir, snapshotName), saved, 0o600); err != nil {
		t.Fatal(err)
	}
	x = reopen(t, dir)
	check("after the loss of the index")
}

// TestChangeDuringSnapshot: a change that a snapshot does not have, because it is
// written meanwhile, is in the next one.
func TestChangeDuringSnapshot(t *testing.T) {
	dir := t.TempDir()
	x := reopen(t, dir)
	name := PinName{"docker.io", "library/nginx", "1"}
	err := x.batchForSnapshot(func(batch *badger.WriteBatch) error {
		x.changed.Store(true)
		x.snapshot()
		return batch.Set([]byte(name.key()), []byte("{}"))
	})
	if err != nil {
		t.Fatal(err)
	}
	x.snapshot()
	if n, err := snapshotRecords(filepath.Join(dir, snapshotName)); err != nil || n != 1 {
		t.Errorf("%d records, %v, want 1", n, err)
	}
}
