package cache

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestServingBesideTheWalk does not wait for the files to be counted: what is
// asked for meanwhile is looked for on disk, and nothing is fetched again.
func TestServingBesideTheWalk(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	bodies := make(map[digest.Digest][]byte)
	for seed := range uint64(200) {
		body, d := content(500+seed, 5*kib)
		bodies[d] = body
		r.mustGet(d, &origin{body: body}, body)
	}
	r.stop()
	r = newRig(t, rigOptions{dir: dir, change: func(o *Options) { o.StartWithin = time.Nanosecond }})
	for d, body := range bodies {
		src := &origin{body: body}
		if from := r.mustGet(d, src, body); from != Held || src.opens.Load() != 0 {
			t.Fatalf("%s comes from %d, %d openings of its source", d, from, src.opens.Load())
		}
	}
	<-r.walked
	r.checkLedger()
	if n := r.Ledger.Stats().Objects[1]; n != len(bodies) {
		t.Errorf("%d objects, want %d", n, len(bodies))
	}
}
