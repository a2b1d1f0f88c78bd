package requests

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
)

func ids(all []Request) (ids []int64) {
	for _, r := range all {
		ids = append(ids, r.ID)
	}
	return ids
}

func TestLastRequestsAreKept(t *testing.T) {
	var l Log
	for i := range Size + 10 {
		l.Add(&Request{
			Client: netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i%4)), Method: "GET", Registry: "docker.io",
			Repository: fmt.Sprintf("library/image-%d", i%7), Tag: "1", Result: []string{"hit", "miss"}[i%2], Status: 200,
		})
	}
	all := l.After(-1, Size+1, Filter{})
	if len(all) != Size || all[0].ID != 11 || all[Size-1].ID != Size+10 {
		t.Fatalf("%d requests", len(all))
	}
	if got := fmt.Sprint(ids(l.After(Size+7, 2, Filter{}))); got != fmt.Sprintf("[%d %d]", Size+8, Size+9) {
		t.Errorf("after: %s", got)
	}
	if got := fmt.Sprint(ids(l.After(-1, 2, Filter{}))); got != fmt.Sprintf("[%d %d]", Size+9, Size+10) {
		t.Errorf("last: %s", got)
	}
	if got := l.After(Size+10, 5, Filter{}); len(got) != 0 {
		t.Errorf("%v after the last", got)
	}
	for name, tc := range map[string]struct {
		f    Filter
		want int
	}{
		"client":  {Filter{Client: netip.MustParsePrefix("10.0.0.1/32")}, Size / 4},
		"network": {Filter{Client: netip.MustParsePrefix("10.0.0.0/31")}, Size / 2},
		"result":  {Filter{Result: "hit"}, Size / 2},
		"image":   {Filter{Image: "io/library/image-3:1"}, Size/7 + 1},
		"both":    {Filter{Result: "hit", Client: netip.MustParsePrefix("10.0.0.1/32")}, 0},
	} {
		if got := len(l.After(-1, Size, tc.f)); got < tc.want-1 || got > tc.want {
			t.Errorf("%s: %d, want about %d", name, got, tc.want)
		}
	}
}

// TestLongTextsAreCut keeps a request whose texts a client has made long.
func TestLongTextsAreCut(t *testing.T) {
	var l Log
	long := strings.Repeat("é", 5000)
	l.Add(&Request{Method: long, Path: long, Error: long})
	l.Add(&Request{Repository: strings.Repeat("r", 255), Digest: "sha512:" + strings.Repeat("a", 128), Error: long})
	all := l.After(-1, 2, Filter{})
	if len(all[0].Method) > maxMethod || len(all[0].Path) > maxPath || !strings.HasPrefix(long, all[0].Path) || all[0].Error == "" {
		t.Errorf("%+v", all[0])
	}
	if len(all[1].Repository) != 255 || len(all[1].Digest) != 135 || len(all[1].Error) < 200 {
		t.Errorf("%+v", all[1])
	}
}

func TestAllocatesNothing(t *testing.T) {
	l := new(Log)
	r := Request{Method: "GET", Registry: "docker.io", Repository: "library/alpine", Tag: "latest"}
	if n := testing.AllocsPerRun(100, func() { l.Add(&r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var none *Log
	none.Add(&r)
}

// TestConcurrentRequests adds and reads at the same time: a request is read whole
// or not at all.
func TestConcurrentRequests(t *testing.T) {
	var l Log
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			text := strings.Repeat(string(rune('a'+w)), 100)
			for range 3 * Size {
				l.Add(&Request{Repository: text, Tag: text[:50]})
			}
		})
	}
	all.Go(func() {
		for range 20 {
			for _, r := range l.After(-1, Size, Filter{}) {
				if r.Repository != strings.Repeat(r.Tag[:1], 100) || r.Tag != r.Repository[:50] {
					t.Errorf("%+v", r)
				}
			}
		}
	})
	all.Wait()
}

func BenchmarkAdd(b *testing.B) {
	l := new(Log)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r := Request{Method: "GET", Registry: "docker.io", Repository: "library/alpine", Tag: "latest", Status: 200, Bytes: 5}
			l.Add(&r)
		}
	})
}
