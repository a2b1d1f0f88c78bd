//go:build linux

package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// waitIn waits until n goroutines are in the function.
func waitIn(t testing.TB, function string, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d in %s", n, function), func() bool {
		all := make([]byte, mib)
		return strings.Count(string(all[:runtime.Stack(all, true)]), function+"(") >= n
	})
}

func (r *rig) openAside(want Want) chan opening {
	ch := make(chan opening, 1)
	go func() {
		b, err := r.Open(context.Background(), want)
		ch <- opening{b, err}
	}()
	return ch
}

// gated is a source whose first transfer waits for open.
func gated(body []byte, unsized bool) (src *origin, open chan struct{}) {
	open = make(chan struct{})
	return &origin{body: body, unsized: unsized, script: func(n, _ int64, in io.Reader) (io.Reader, error) {
		if n == 1 {
			in = gate{in, open}
		}
		return in, nil
	}}, open
}

// TestEvictedBeforeItsOpenersCame has a blob filled, committed and evicted before
// those who wait for it open the file.
func TestEvictedBeforeItsOpenersCame(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(205, mib)
	src, open := gated(body, false)
	want := Want{Digest: d, Source: src, Size: -1}
	goOn := holdUp(t, &r.files)
	first := r.openAside(want)
	waitIn(t, "(*Files).Acquire", 1)
	second := r.openAside(want)
	waitIn(t, "(*Files).Acquire", 2)
	close(open)
	r.settle()
	if !r.o.Ledger.Evict(d) {
		t.Fatal("not held")
	}
	if err := r.o.Store.Remove(d); err != nil { // as removeLocked, for a file that no reader has open
		t.Fatal(err)
	}
	r.o.Ledger.Unlinked(d)
	r.o.Ledger.Freed(int64(len(body)))
	goOn()
	r.mustSend(<-first, body)
	r.mustSend(<-second, body)
	r.checkLedger()
}

// TestDiskFailsBeforeTheOpenersCame shows that a pull succeeds when a failing or
// full disk ends the fill before those who wait for it open the file.
func TestDiskFailsBeforeTheOpenersCame(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	body, d := randomContent(206, 2*mib)
	src, open := gated(body, true)
	want := Want{Digest: d, Source: src, Size: -1}
	goOn := holdUp(t, &r.files)
	first := r.openAside(want)
	waitIn(t, "(*Files).Acquire", 1)
	second := r.openAside(want)
	waitIn(t, "(*Files).Acquire", 2)
	close(open)
	eventually(t, "the fill fails", func() bool {
		left, err := os.ReadDir(filepath.Join(r.dir, "partial"))
		return err == nil && len(left) == 0
	})
	goOn()
	r.mustSend(<-first, body)
	r.mustSend(<-second, body)
	r.checkLedger()
}

// lookThenJoin opens a blob for a request that does not find it held, and that looks
// for its fill after that has ended.
func (r *rig) lookThenJoin(body []byte, d digest.Digest, later Source) opening {
	r.t.Helper()
	goOn := holdUp(r.t, r.fills) // the request, between the looks
	want := Want{Digest: d, Source: later, Size: -1}
	o := r.openAside(want)
	waitIn(r.t, "(*Fills).Join", 1)
	r.PutManifest(Manifest{Digest: d, MediaType: "m", Body: body}, func() {}) // stored without a fill
	eventually(r.t, "it is stored", func() bool { _, held := r.o.Ledger.Touch(d); return held })
	goOn()
	return <-o
}

// TestCommittedBetweenLookAndJoin has a fill commit between a request's look at the
// files and its look at the fills.
func TestCommittedBetweenLookAndJoin(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(207, mib)
	src := &origin{body: body}
	r.mustSend(r.lookThenJoin(body, d, src), body)
	if n := src.opens.Load(); n != 0 {
		t.Errorf("one blob, %d transfers", n+1)
	}
	r.checkLedger()
}

// TestEvictedDuringASecondFill is the same, with the file evicted while the second
// fill runs.
func TestEvictedDuringASecondFill(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(212, mib)
	src, open := gated(body, false)
	o := r.lookThenJoin(body, d, src)
	if o.err != nil {
		t.Fatal(o.err)
	}
	if r.o.Ledger.Evict(d) {
		r.Remove(d)
	}
	close(open)
	r.mustSend(o, body)
	r.checkLedger()
}

// TestManifestAndFillOfOneDigest has a manifest stored while a client requests it as
// a blob.
func TestManifestAndFillOfOneDigest(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(213, mib)
	src := &origin{body: body}
	unlock := r.digests.Lock(d) // both wait, the manifest first
	r.PutManifest(Manifest{Digest: d, MediaType: "m", Body: body}, func() {})
	eventually(t, "the manifest waits", func() bool { return r.lockUsers(d) == 2 })
	b := make(chan error)
	go func() {
		got, _, err := r.get(d, src, 0, -1)
		if err == nil && !bytes.Equal(got, body) {
			err = errors.New("wrong bytes")
		}
		b <- err
	}()
	eventually(t, "the fill waits", func() bool { return r.lockUsers(d) == 3 })
	unlock()
	if err := <-b; err != nil {
		t.Error(err)
	}
	r.settle()
	if n := src.opens.Load(); n != 0 {
		t.Errorf("it was held when the fill began, and was transferred again")
	}
	r.checkLedger()
}

func (r *rig) lockUsers(d digest.Digest) int { return r.digests.Users(d) }

// TestOneTransferEach has many clients request one small blob after another: each is
// transferred once.
func TestOneTransferEach(t *testing.T) {
	r := newRig(t, rigOptions{})
	twice := 0
	for i := range 200 {
		body, d := randomContent(uint64(5000+i), 100)
		src := &origin{body: body}
		var all sync.WaitGroup
		for range 32 {
			all.Go(func() {
				if got, _, err := r.get(d, src, 0, -1); err != nil || !bytes.Equal(got, body) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		}
		all.Wait()
		if src.opens.Load() > 1 {
			twice++
		}
	}
	if twice > 0 {
		t.Errorf("%d of 200 blobs were transferred more than once", twice)
	}
	r.checkLedger()
}

// TestOutOfFileDescriptors requests a cached blob while the process has no file
// descriptor left.
func TestOutOfFileDescriptors(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(208, mib)
	src := &origin{body: body}
	r.mustGet(d, src, body)
	r.settle()
	restore := noMoreFiles(t)
	got, _, err := r.get(d, src, 0, -1)
	restore()
	if err == nil && !bytes.Equal(got, body) { // an error is an honest answer
		t.Errorf("without descriptors: %d bytes", len(got))
	}
	r.settle()
	b, ok, _ := r.Held(Want{Digest: d})
	if !ok {
		t.Error("a good file was removed because the process had no descriptor for it")
	} else {
		b.Close()
	}
	r.checkLedger()
}

// noMoreFiles makes every opening of a file fail until restore is called.
func noMoreFiles(t *testing.T) (restore func()) {
	t.Helper()
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	free, err := syscall.Open("/dev/null", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Close(free)
	none := syscall.Rlimit{Cur: uint64(free), Max: was.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Skipf("limiting file descriptors is not permitted here: %v", err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenDuringClose has requests come while the cache is closed, as after a drain
// that took too long.
func TestOpenDuringClose(t *testing.T) {
	r := newRig(t, rigOptions{})
	stop := make(chan struct{})
	var all sync.WaitGroup
	begun := make(chan struct{}, 8)
	for i := range 4 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				body, d := randomContent(uint64(300+i*50+n%50), 10_000)
				_, _, _ = r.get(d, &origin{body: body}, 0, -1)
				r.PutManifest(Manifest{Digest: d, MediaType: "m", Body: body}, func() {})
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 8 {
		<-begun
	}
	r.Close()
	close(stop)
	all.Wait()
	// What was begun after the closing has ended too when the store closes.
	if r.base.Err() == nil {
		t.Error("not closed")
	}
	r.checkLedger()
}
