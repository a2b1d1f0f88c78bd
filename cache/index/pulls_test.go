package index

import (
	"reflect"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestPulled: what was pulled survives closing and the loss of the index, and can
// be removed.
func TestPulled(t *testing.T) {
	name := PullName{"docker.io", "library/nginx", "1.27"}
	one := Pulled{
		Digest: digest.FromString("a"), Uses: Uses{Last: 1_900_000_000, Days: []DayPulls{{21990, 3}, {21991, 1}}},
		Platforms: map[string]Uses{"linux/amd64": {Last: 1_900_000_000, Days: []DayPulls{{21991, 1}}}, "": {}},
	}
	gone := PullName{"docker.io", "library/nginx", digest.FromString("b").String()}
	want := []PullRecord{{name, one}}
	check := func(x *Index) {
		t.Helper()
		var all []PullRecord
		for r, err := range x.Pulled() {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, r)
		}
		if !reflect.DeepEqual(all, want) {
			t.Errorf("%+v, want %+v", all, want)
		}
	}
	dir := t.TempDir()
	x := reopen(t, dir)
	for _, all := range []map[PullName]*Pulled{{name: &one, gone: &one, {"docker.io", "", "x"}: &one}, {gone: nil}} {
		if err := x.PutPulled(all); err != nil {
			t.Fatal(err)
		}
	}
	check(x)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x = reopen(t, dir)
	check(x)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	lose(t, dir)
	check(reopen(t, dir))
}
