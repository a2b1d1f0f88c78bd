//go:build linux

package cache

import (
	"bytes"
	"context"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// TestBehindTheEnd requests a range behind the end of a blob of unknown size.
func TestBehindTheEnd(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(204, mib)
	b, err := r.Open(t.Context(), Want{Digest: d, Source: &origin{body: body, unsized: true}, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		var c client
		_ = b.Send(ctx, &c, mib+1, -1)
	}()
	r.settle()
	leave()
	select {
	case <-done:
	case <-time.After(testkit.Patience):
		t.Error("a reader spins for ever, and does not see that its client has left")
	}
}

// TestFloorAndUnknownSizes runs fills of unknown size at the same time.
func TestFloorAndUnknownSizes(t *testing.T) {
	const floor = 24 * mib
	dir := onSmallDisk(t, "size=64m")
	r := newRig(t, rigOptions{dir: dir, limit: 60 * mib, change: func(o *Options) { o.MinFree, o.MaxBlob = floor, 12*mib }})
	r.o.Ledger.SetOverhead(0)
	open := make(chan struct{})
	var all sync.WaitGroup
	for i := range 5 {
		body, d := randomContent(uint64(220+i), 12*mib)
		src := &origin{body: body, unsized: true, script: func(n, _ int64, in io.Reader) (io.Reader, error) {
			if n == 1 {
				in = gate{in, open}
			}
			return in, nil
		}}
		b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			defer b.Close()
			var c client
			if err := b.Send(t.Context(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
				t.Errorf("%d bytes, %v", c.Len(), err)
			}
		})
	}
	close(open)
	all.Wait()
	r.settle()
	free, err := r.o.Store.Free()
	if err != nil || free < floor {
		t.Errorf("%d bytes free, the floor is %d; %v", free, int64(floor), err)
	}
}

// TestUnknownSizeNearTheLimit shows that a blob of unknown size that fits is stored,
// also where a whole step does not fit.
func TestUnknownSizeNearTheLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("66 MiB")
	}
	r := newRig(t, rigOptions{limit: 100 * mib, maxBlob: 80 * mib})
	body, d := randomContent(235, 66*mib)
	r.mustGet(d, &origin{body: body, unsized: true}, body)
	r.settle()
	if _, ok := r.o.Ledger.Touch(d); !ok {
		t.Error("66 MiB of 100 were not kept")
	}
	r.checkLedger()
}

// TestStepsThatAreNoBlocks reserves steps that are not a multiple of the block size.
func TestStepsThatAreNoBlocks(t *testing.T) {
	r := newRig(t, rigOptions{limit: 9 * mib, maxBlob: 10_000_001})
	body, d := randomContent(239, 6_000_000)
	r.mustGet(d, &origin{body: body, unsized: true}, body)
	r.checkLedger()
}

// TestUnknownSizeGivesItsBlocksBack shows that unused reserved bytes of a blob of
// unknown size are free after the commit.
func TestUnknownSizeGivesItsBlocksBack(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(242, mib)
	r.mustGet(d, &origin{body: body, unsized: true}, body)
	r.settle()
	var stat syscall.Stat_t
	if err := syscall.Stat(path(r, d), &stat); err != nil {
		t.Fatal(err)
	}
	if took := stat.Blocks * 512; took > 2*mib {
		t.Errorf("a file of %d bytes takes %d on disk", len(body), took)
	}
}
