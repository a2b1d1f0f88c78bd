//go:build linux

package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

// TestChurnWithFaults is TestChurn with sources that break, give wrong bytes and
// refuse, clients that leave, blobs of unknown size and uncached ones, damaged and
// missing files, and evictions by name.
func TestChurnWithFaults(t *testing.T) {
	const limit = 6 * mib
	r := newRig(t, rigOptions{limit: limit, maxBlob: 2 * mib})
	type blob struct {
		body []byte
		d    digest.Digest
	}
	var set []blob
	for i := range 24 {
		size := []int{0, 1, 3000, tail, tail + 1, 300_000, mib, 3 * mib}[i%8]
		body, d := randomContent(uint64(1000+i), size+i/8)
		set = append(set, blob{body, d})
	}
	rounds := 80
	if testing.Short() {
		rounds = 20
	}
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 2))
			for range rounds {
				one := set[rnd.IntN(len(set))]
				switch rnd.IntN(12) {
				case 0:
					if r.o.Ledger.Evict(one.d) {
						r.Remove(one.d)
					}
				case 1:
					_ = os.Truncate(path(r, one.d), int64(len(one.body)/2))
				case 2:
					r.PutManifest(Manifest{Digest: one.d, MediaType: "m", Body: one.body}, func() {})
				case 3:
					r.Manifest(one.d)
				}
				src := &origin{body: one.body, unsized: rnd.IntN(2) == 0, noRange: rnd.IntN(3) == 0}
				kind := rnd.IntN(8)
				src.script = func(n, off int64, in io.Reader) (io.Reader, error) {
					switch {
					case kind == 0 && n == 1:
						return cutAfter(in, int64(len(one.body)/2)), nil
					case kind == 1:
						return nil, notFound{}
					case kind == 2 && len(one.body) > 0 && n == 1:
						bad := bytes.Clone(one.body)
						bad[len(bad)/2] ^= 1
						return bytes.NewReader(bad), nil
					}
					return in, nil
				}
				ctx, leave := context.WithCancel(context.Background())
				if rnd.IntN(6) == 0 {
					leave()
				}
				b, err := r.Open(ctx, Want{Digest: one.d, Source: src, Size: -1})
				if err == nil {
					off, n := int64(0), int64(-1)
					if b.Size > 0 {
						off = rnd.Int64N(b.Size)
						n = b.Size - off
					}
					var c client
					if err = b.Send(ctx, &c, off, n); err == nil && !bytes.Equal(c.Bytes(), one.body[off:]) {
						t.Errorf("wrong bytes completed: kind %d, origin %d, %d bytes of %d from %d", kind, b.Origin, c.Len(), len(one.body), off)
					}
					b.Close()
				}
				if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrWrongContent) && !errors.Is(err, notFound{}) {
					t.Errorf("%v (of the client: %v)", err, ctx.Err())
				}
				leave()
				s := r.o.Ledger.Status()
				if used := s.Used() - s.Overhead; used > limit {
					t.Errorf("%d bytes of %d", used, limit)
				}
			}
		})
	}
	all.Wait()
	r.settle()
	// Files that were cut under the ledger are noticed when they are read next.
	r.small.Purge()
	for _, one := range set {
		if b, ok, _ := r.Held(Want{Digest: one.d}); ok {
			b.Close()
		}
	}
	for end := time.Now().Add(testkit.Patience); r.o.Ledger.Status().Evicted != 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // the janitor may be at work
	}
	if s := r.o.Ledger.Status(); s.Evicted != 0 {
		pending := 0
		for _, one := range set {
			if _, evicted := r.o.Ledger.Evicted(one.d); evicted {
				pending++
			}
		}
		t.Errorf("%d bytes evicted without readers, %d objects wait to be unlinked", s.Evicted, pending)
	}
	r.checkLedger()
	if n := r.files.Count(); n != 0 {
		t.Errorf("%d handles left", n)
	}
}
