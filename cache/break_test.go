//go:build linux

package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
)

// Each test is a sequence of events that could lose bytes, readers or room.

// onSmallDisk mounts a file system of a few MiB with an index beside it that
// has room of its own, and returns the data directory.
func onSmallDisk(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	mount := func(at, options string) {
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("tmpfs", at, "tmpfs", 0, options); err != nil {
			t.Skipf("mounting a small file system is not permitted here: %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount(dir, options)
	mount(filepath.Join(dir, "index"), "size=1g")
	return dir
}

func path(r *rig, d digest.Digest) string {
	return filepath.Join(r.dir, "blobs/open/sha256", d.Encoded()[:2], d.Encoded())
}

// wrongOnce is a source whose first transfer has one wrong byte and whose
// later ones are right.
func wrongOnce(body []byte, at int, unsized bool) *origin {
	src := &origin{body: body, unsized: unsized}
	src.script = func(open, off int64, in io.Reader) (io.Reader, error) {
		if open > 1 {
			return in, nil
		}
		bad := bytes.Clone(body[off:])
		bad[at] ^= 1
		return bytes.NewReader(bad), nil
	}
	return src
}

// The first transfer begins wrong and outgrows the cache; the second is right.
// A reader that was given the wrong beginning must not get the right end.
func TestBreakWrongBeginningThenNotKept(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	body, d := content(200, 2*mib)
	got, _, err := r.get(d, wrongOnce(body, 0, true), 0, -1)
	if err == nil && !bytes.Equal(got, body) {
		t.Errorf("%d wrong bytes, and the answer completed", len(got))
	}
	r.checkLedger()
}

// A reader's own file fails while the fill, whose beginning is wrong, runs.
func TestBreakWrongBeginningThenReaderFileFails(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(201, 2*mib)
	src := wrongOnce(body, 0, false)
	first := src.script
	open := make(chan struct{})
	src.script = func(n, off int64, in io.Reader) (io.Reader, error) {
		in, err := first(n, off, in)
		if n == 1 {
			in = io.MultiReader(io.LimitReader(in, mib), gate{in, open})
		}
		return in, err
	}
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	file := b.body.(*reader).file
	c := &breakAt{at: mib / 2, do: func() { file.Close(); close(open) }}
	err = b.Send(t.Context(), c, 0, b.Size)
	if err == nil && !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d wrong bytes, and the answer completed", c.Len())
	}
}

// breakAt is a client that does something once it has got so many bytes.
type breakAt struct {
	client
	at int
	do func()
}

func (b *breakAt) Write(p []byte) (int, error) {
	n, err := b.client.Write(p)
	if b.do != nil && b.Len() >= b.at {
		b.do()
		b.do = nil
	}
	return n, err
}

// ReadFrom is hidden, so that the bytes come through Write.
func (b *breakAt) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}

// The hasher fails in the middle of a run of bytes: what a reader goes on with
// must be the hash of the bytes it says it is.
func TestBreakHasherFailsInTheMiddle(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(202, 4*buffer)
	f := newFill(r.Cache, Want{Digest: d, Source: &origin{body: body}, Size: -1}, false)
	if err := f.prepare(&Stream{Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	defer r.o.Ledger.Release(int64(len(body)))
	defer f.writer.Discard()
	if _, err := f.writer.WriteAt(body[:2*buffer+5], 0); err != nil {
		t.Fatal(err)
	}
	f.wrote(span{0, 3 * buffer}) // the file has lost the end of it
	err := f.hashAll()
	close(f.hashEnded)
	if err == nil {
		t.Fatal("no error")
	}
	if got, want := digest.NewDigest(digest.SHA256, f.hash), digest.FromBytes(body[:f.hashed]); got != want {
		t.Errorf("the fill says that its hash is of %d bytes, and it is not", f.hashed)
	}
}

// Run with -race: a reader's own file fails just when the size becomes known.
func TestBreakContinueUncachedReadsTheSize(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(203, mib)
	open := make(chan struct{})
	src := &origin{body: body, unsized: true}
	src.script = func(n, _ int64, in io.Reader) (io.Reader, error) {
		if n == 1 {
			in = gate{in, open}
		}
		return in, nil
	}
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	name := path(r, d)
	close(open)
	// Nothing but the file system says that the fill has ended.
	for {
		if _, err := os.Stat(name); err == nil {
			break
		}
	}
	b.body.(*reader).file.Close()
	var c client
	if err := b.Send(t.Context(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
}

// A span behind the end of a blob whose size was not known.
func TestBreakBehindTheEnd(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(204, mib)
	b, err := r.Open(t.Context(), Want{Digest: d, Source: &origin{body: body, unsized: true}, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	f := b.body.(*reader).fill
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
	case <-time.After(5 * time.Second):
		t.Error("a reader spins for ever, and does not see that its client has left")
		f.mu.Lock()
		f.verified, f.err = false, errors.New("the test is over")
		f.mu.Unlock()
		<-done
	}
}

// waitIn waits until n goroutines are in the function, held up by the test.
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

// A blob is filled, committed and evicted before its slow openers get to the
// file.
func TestBreakEvictedBeforeItsOpenersCame(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(205, mib)
	src, open := gated(body, false)
	want := Want{Digest: d, Source: src, Size: -1}
	r.handles.mu.Lock() // holds the openers up
	first := r.openAside(want)
	waitIn(t, "(*handles).acquire", 1)
	second := r.openAside(want)
	waitIn(t, "(*handles).acquire", 2)
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
	r.handles.mu.Unlock()
	r.mustSend(<-first, body)
	r.mustSend(<-second, body)
	r.checkLedger()
}

// The disk, or the lack of room, ends a fill before its openers get to the
// file: the pull still works.
func TestBreakDiskFailsBeforeTheOpenersCame(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	body, d := content(206, 2*mib)
	src, open := gated(body, true)
	want := Want{Digest: d, Source: src, Size: -1}
	r.handles.mu.Lock() // holds the openers up
	first := r.openAside(want)
	waitIn(t, "(*handles).acquire", 1)
	second := r.openAside(want)
	waitIn(t, "(*handles).acquire", 2)
	close(open)
	eventually(t, "the fill fails", func() bool {
		left, err := os.ReadDir(filepath.Join(r.dir, "partial"))
		return err == nil && len(left) == 0
	})
	r.handles.mu.Unlock()
	r.mustSend(<-first, body)
	r.mustSend(<-second, body)
	r.checkLedger()
}

// lookThenJoin opens a blob for a request that finds it neither held nor being
// filled any more, because the fill ended between its two looks.
func (r *rig) lookThenJoin(body []byte, d digest.Digest, later Source) opening {
	r.t.Helper()
	r.mu.Lock() // holds the request up between the looks
	want := Want{Digest: d, Source: later, Size: -1}
	o := r.openAside(want)
	waitIn(r.t, "(*Cache).join", 1)
	// A fill that is on no list: it commits, and waits at the list's lock.
	r.running.Go(newFill(r.Cache, Want{Digest: d, Source: &origin{body: body}, Size: -1}, false).run)
	eventually(r.t, "the first fill commits", func() bool { _, held := r.o.Ledger.Touch(d); return held })
	r.mu.Unlock()
	return <-o
}

// A fill commits between a request's look at the files and its look at the
// fills.
func TestBreakCommittedBetweenLookAndJoin(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(207, mib)
	src := &origin{body: body}
	r.mustSend(r.lookThenJoin(body, d, src), body)
	if n := src.opens.Load(); n != 0 {
		t.Errorf("one blob, %d transfers", n+1)
	}
	r.checkLedger()
}

// The same, and the file is evicted while the second fill runs.
func TestBreakEvictedDuringASecondFill(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(212, mib)
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

// A manifest is stored while a client requests it as a blob.
func TestBreakManifestAndFillOfOneDigest(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(213, mib)
	src := &origin{body: body}
	unlock := r.locks.lock(d) // both wait, the manifest first
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

func (r *rig) lockUsers(d digest.Digest) int {
	r.locks.mu.Lock()
	defer r.locks.mu.Unlock()
	if one := r.locks.held[d]; one != nil {
		return one.users
	}
	return 0
}

// Many ask at once for one small blob after another: each is transferred once.
func TestBreakOneTransferEach(t *testing.T) {
	r := newRig(t, rigOptions{})
	twice := 0
	for i := range 200 {
		body, d := content(uint64(5000+i), 100)
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

// The process has no file descriptor left when a cached blob is asked for.
func TestBreakOutOfFileDescriptors(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(208, mib)
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

// unremovable makes the removal of a blob's file fail until restore is called.
func unremovable(t *testing.T, r *rig, d digest.Digest) (restore func()) {
	t.Helper()
	name := path(r, d)
	if err := syscall.Mount(name, name, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("mounting is not permitted here: %v", err)
	}
	undone := false
	restore = func() {
		if !undone {
			undone = true
			if err := syscall.Unmount(name, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(restore)
	return restore
}

// An evicted file cannot be unlinked for a while.
func TestBreakUnlinkFailsForAWhile(t *testing.T) {
	r := newRig(t, rigOptions{limit: 16 * mib})
	body, d := content(209, 4*mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	restore := unremovable(t, r, d)
	r.o.Ledger.Evict(d)
	r.Remove(d)
	if s := r.o.Ledger.Status(); s.Evicted == 0 {
		t.Fatal("it was removed after all")
	}
	restore()
	// Room is wanted; the evicted bytes are in the way.
	if err := r.janitor.Reserve(13 * mib); err != nil {
		t.Errorf("the evicted bytes are never given back: %v", err)
	} else {
		r.o.Ledger.Release(13 * mib)
	}
	r.checkLedger()
}

// The same, and the blob is filled again meanwhile.
func TestBreakUnlinkFailsThenRefill(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(210, mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	restore := unremovable(t, r, d)
	r.o.Ledger.Evict(d)
	r.Remove(d)
	open := make(chan struct{})
	src := &origin{body: body, script: func(n, _ int64, in io.Reader) (io.Reader, error) {
		if n == 1 {
			in = gate{in, open}
		}
		return in, nil
	}}
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	restore()
	close(open)
	var c client
	if err := b.Send(t.Context(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
	b.Close()
	r.settle()
	if held, ok := r.o.Ledger.Touch(d); ok {
		if _, err := os.Lstat(path(r, d)); err != nil {
			t.Errorf("the ledger holds %d bytes of a file that was removed: %v", held, err)
		}
	}
	r.Remove(d) // the janitor's next try, if the old file is still there
	r.checkLedger()
}

// Requests are still coming while the cache is closed, as after a drain that
// took too long.
func TestBreakOpenDuringClose(t *testing.T) {
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
				body, d := content(uint64(300+i*50+n%50), 10_000)
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

// blocked is a body that gives nothing before its context ends.
type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, context.Cause(b.ctx) }
func (b blocked) Close() error             { return nil }

type blockedSource struct{ size int64 }

func (s blockedSource) Open(ctx context.Context, _, _ int64) (*Stream, error) {
	return &Stream{Body: blocked{ctx}, Size: s.size}, nil
}

// A client of an uncached blob leaves while the source gives nothing.
func TestBreakClientLeavesAnUncachedStream(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	_, d := content(211, 10)
	ctx, leave := context.WithCancel(t.Context())
	b, err := r.Open(ctx, Want{Digest: d, Source: blockedSource{2 * mib}, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Send(ctx, &client{}, 0, -1) }()
	leave()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Error("the reader outlives its client until the source stalls out or hubcap stops")
		r.Cache.stop(errStopped)
		<-done
	}
	b.Close()
}

// Fills of unknown size run at the same time.
func TestBreakFloorAndUnknownSizes(t *testing.T) {
	const floor = 24 * mib
	dir := onSmallDisk(t, "size=64m")
	r := newRig(t, rigOptions{dir: dir, limit: 60 * mib, change: func(o *Options) { o.MinFree, o.MaxBlob = floor, 12*mib }})
	r.o.Ledger.SetOverhead(0)
	open := make(chan struct{})
	var all sync.WaitGroup
	for i := range 5 {
		body, d := content(uint64(220+i), 12*mib)
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

// The disk fails under two readers with sources of their own, one of which
// has gone.
func TestBreakContinueUncachedUsesTheReadersSource(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	body, d := content(230, 2*mib)
	open := make(chan struct{})
	first := &origin{body: body, unsized: true, script: func(n, _ int64, in io.Reader) (io.Reader, error) {
		if n > 1 {
			return nil, notFound{}
		}
		return gate{in, open}, nil
	}}
	a, err := r.Open(t.Context(), Want{Digest: d, Source: first, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := r.Open(t.Context(), Want{Digest: d, Source: &origin{body: body, unsized: true}, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	close(open)
	var c client
	if err := b.Send(t.Context(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
}

// A blob is used at the moment of its eviction: the index must not keep a
// record of it for ever.
func TestBreakLastUseOfWhatIsGone(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body, d := content(231, mib)
	r.mustGet(d, &origin{body: body}, body)
	r.settle()
	r.o.Ledger.Evict(d)
	r.Remove(d)
	r.usage.touch(d) // Held, between the ledger's answer and its own note
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	left := 0
	if err := r.o.Index.Used("", func(digest.Digest, time.Time) { left++ }); err != nil || left != 0 {
		t.Errorf("%d records of files that are not there, %v", left, err)
	}
}

// A manifest for which there is no room leaves nothing in the index.
func TestBreakManifestWithoutRoomInTheIndex(t *testing.T) {
	r := newRig(t, rigOptions{limit: 4 * kib})
	body, d := content(232, 8*kib)
	r.PutManifest(Manifest{Digest: d, MediaType: "m", Body: body}, func() { t.Error("stored") })
	r.Close() // waits for it
	if mediaType, err := r.o.Index.MediaType(d); err != nil || mediaType != "" {
		t.Errorf("media type %q of what is not there, %v", mediaType, err)
	}
}

// The process dies between setting an index aside and clearing its tries, or
// the operator removes the directory by hand.
func TestBreakIndexIsGoneAndItsTriesAreNot(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.opening"), []byte(".."), 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := index.Open(index.Options{
		Dir: dir, Room: func() (int64, error) { return 1 << 40, nil }, Interval: time.Hour, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("it will never start again: %v", err)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// A client got a wrong beginning, the right blob is stored for another one, and
// the first one requests the rest.
func TestBreakRangeAfterAWrongBeginning(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(233, mib)
	src := wrongOnce(body, 0, false)
	if _, _, err := r.get(d, src, 0, -1); !errors.Is(err, ErrWrongContent) {
		t.Fatal(err)
	}
	r.mustGet(d, src, body)
	r.settle()
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if !b.RecentlyWrong {
		t.Error("within the minute a Range would complete the wrong beginning with a right end")
	}
}

// A source panics when an uncached stream is closed for which no reader waits.
func TestBreakPanicInClosing(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	_, d := content(234, 10)
	open, opened := make(chan struct{}), make(chan struct{})
	src := panickingClose{size: 2 * mib, open: open, opened: opened}
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-opened; leave() }()
	if _, err := r.Open(ctx, Want{Digest: d, Source: src, Size: -1}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(open)
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		r.locks.mu.Lock()
		n := len(r.locks.held)
		r.locks.mu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	t.Error("the fill hangs for ever with its digest locked, and so does Close")
	r.Cache = nil // Close would hang
}

type panickingClose struct {
	size         int64
	open, opened chan struct{}
}

func (p panickingClose) Open(context.Context, int64, int64) (*Stream, error) {
	close(p.opened)
	<-p.open
	return &Stream{Body: p, Size: p.size}, nil
}
func (panickingClose) Read([]byte) (int, error) { return 0, io.EOF }
func (panickingClose) Close() error             { panic("a bug") }

// A blob of unknown size that fits is kept, although a whole step would not.
func TestBreakUnknownSizeNearTheLimit(t *testing.T) {
	if testing.Short() {
		t.Skip("66 MiB")
	}
	r := newRig(t, rigOptions{limit: 100 * mib, maxBlob: 80 * mib})
	body, d := content(235, 66*mib)
	r.mustGet(d, &origin{body: body, unsized: true}, body)
	r.settle()
	if _, ok := r.o.Ledger.Touch(d); !ok {
		t.Error("66 MiB of 100 were not kept")
	}
	r.checkLedger()
}

// A source that knows no ranges gives a little more each time before it
// breaks.
func TestBreakNoRangesAndManyBreaks(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	r := newRig(t, rigOptions{})
	body, d := content(236, mib)
	var sent int64
	src := &origin{body: body, noRange: true, script: func(n, _ int64, in io.Reader) (io.Reader, error) {
		sent += min(n*(mib/32), mib)
		return cutAfter(in, min(n*(mib/32), mib)), nil
	}}
	_, _, err := r.get(d, src, 0, -1)
	r.settle()
	t.Logf("%d bytes in %d openings for %d, %v", sent, src.opens.Load(), len(body), err)
	if sent > 8*mib {
		t.Errorf("%d bytes crossed the link for a blob of %d", sent, len(body))
	}
}

// A source ends in good order before the end, again and again.
func TestBreakSourceThatAlwaysEndsEarly(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the whole of the backoff")
	}
	body, d := content(237, 2*mib)
	for name, broken := range map[string]func() (io.Reader, error){
		"empty body":          func() (io.Reader, error) { return bytes.NewReader(nil), nil },
		"refused with an EOF": func() (io.Reader, error) { return nil, fmt.Errorf("Get https://registry: %w", io.EOF) },
	} {
		for _, maxBlob := range []int64{mib, 4 * mib} { // passed on, and filled
			t.Run(fmt.Sprintf("%s, largest blob %d", name, maxBlob), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, rigOptions{maxBlob: maxBlob, limit: 16 * mib})
				src := &origin{body: body, script: func(n, _ int64, in io.Reader) (io.Reader, error) {
					if n == 1 {
						return io.LimitReader(in, mib), nil
					}
					return broken()
				}}
				got, _, err := r.get(d, src, 1000, mib+500_000)
				if err == nil {
					t.Errorf("%d bytes of %d, and no error", len(got), mib+500_000)
				}
				if errors.Is(err, ErrWrongContent) {
					t.Errorf("the source failed, and the content is blamed: %v", err)
				}
				r.checkLedger()
			})
		}
	}
}

// A source says that the blob is longer than it is.
func TestBreakSourceThatSaysTooMuch(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes the whole of the backoff")
	}
	r := newRig(t, rigOptions{})
	body, d := content(238, mib)
	src := sourceFunc(func(_ context.Context, off, _ int64) (*Stream, error) {
		return &Stream{Body: io.NopCloser(bytes.NewReader(body[off:])), Off: off, Size: mib + 100}, nil
	})
	got, _, err := r.get(d, &src, 0, mib+100)
	if err == nil && len(got) != mib+100 {
		t.Errorf("%d bytes of %d, and no error", len(got), mib+100)
	}
	r.checkLedger()
}

// A step of room that is no whole number of blocks.
func TestBreakStepsThatAreNoBlocks(t *testing.T) {
	r := newRig(t, rigOptions{limit: 9 * mib, maxBlob: 10_000_001})
	body, d := content(239, 6_000_000)
	r.mustGet(d, &origin{body: body, unsized: true}, body)
	r.checkLedger()
}

// What was set aside for a blob of unknown size and not used is given back.
func TestBreakUnknownSizeGivesItsBlocksBack(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := content(242, mib)
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

// A reader of a part continues uncached when the disk fails: it fetches that part
// and not all that follows.
func TestBreakPartOfAnUncachedBlob(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: 2 * mib})
	body, d := content(243, 16*mib)
	read := new(atomic.Int64)
	src, open := gated(body, true)
	first := src.script
	src.script = func(n, off int64, in io.Reader) (io.Reader, error) {
		in, err := first(n, off, in)
		if n > 1 {
			in = counted{in, read}
		}
		return in, err
	}
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	close(open)
	var c client
	if err := b.Send(t.Context(), &c, 0, 3*mib); err != nil || !bytes.Equal(c.Bytes(), body[:3*mib]) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
	if n := read.Load(); n > 8*mib {
		t.Errorf("%d bytes fetched for the rest of %d", n, 3*mib)
	}
}

type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// The disk is full, or gets full, or has no more inodes: the pull works,
// nothing is left, and what comes later is kept again.
func TestBreakDiskFull(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options string
		unsized bool
		size    int
		prepare func(t *testing.T, dir string)
	}{
		{"full before", "size=8m", false, 4 * mib, fillUp(6 * mib)},
		{"full before, size unknown", "size=8m", true, 4 * mib, fillUp(6 * mib)},
		{"full at the first byte, size unknown", "size=8m", true, mib, fillUp(8 * mib)},
		{"larger than the disk", "size=8m", false, 12 * mib, func(*testing.T, string) {}},
		{"larger than the disk, size unknown", "size=8m", true, 12 * mib, func(*testing.T, string) {}},
		{"no inode", "size=8m,nr_inodes=64", false, mib, useInodes(0)},
		{"one inode: no directory at the commit", "size=8m,nr_inodes=64", false, mib, useInodes(1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := onSmallDisk(t, tc.options)
			r := newRig(t, rigOptions{dir: dir, limit: 64 * mib, change: func(o *Options) { o.MinFree = -64 * mib }})
			tc.prepare(t, dir)
			body, d := content(240, tc.size)
			src := &origin{body: body, unsized: tc.unsized}
			var all sync.WaitGroup
			for i := range 4 {
				all.Go(func() {
					off := int64(i) * 1000
					n := int64(len(body)) - off
					if tc.unsized {
						off, n = 0, -1
					}
					got, _, err := r.get(d, src, off, n)
					if err != nil || !bytes.Equal(got, body[off:]) {
						t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
					}
				})
			}
			all.Wait()
			r.o.Ledger.SetOverhead(0)
			r.checkLedger()
			if err := os.RemoveAll(filepath.Join(dir, "others")); err != nil {
				t.Fatal(err)
			}
			small, d := content(241, mib)
			r.mustGet(d, &origin{body: small}, small)
			r.settle()
			if _, ok := r.o.Ledger.Touch(d); !ok {
				t.Error("nothing is kept any more")
			}
			r.checkLedger()
		})
	}
}

func fillUp(bytes int64) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, "others"), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(filepath.Join(dir, "others", "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for block := make([]byte, 4096); bytes > 0; bytes -= 4096 {
			if _, err := f.Write(block); err != nil {
				return
			}
		}
	}
}

// useInodes leaves so many.
func useInodes(left int) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		others := filepath.Join(dir, "others")
		if err := os.Mkdir(others, 0o700); err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			if err := os.WriteFile(filepath.Join(others, fmt.Sprint(i)), nil, 0o600); err != nil {
				for range left {
					i--
					if err := os.Remove(filepath.Join(others, fmt.Sprint(i))); err != nil {
						t.Fatal(err)
					}
				}
				return
			}
		}
	}
}

// TestBreakChurn is TestChurn with everything that goes wrong in it: sources
// that break, lie and refuse, clients that leave, blobs of unknown size and
// uncached ones, damaged and vanished files, evictions by name.
func TestBreakChurn(t *testing.T) {
	const limit = 6 * mib
	r := newRig(t, rigOptions{limit: limit, maxBlob: 2 * mib})
	type blob struct {
		body []byte
		d    digest.Digest
	}
	var set []blob
	for i := range 24 {
		size := []int{0, 1, 3000, tail, tail + 1, 300_000, mib, 3 * mib}[i%8]
		body, d := content(uint64(1000+i), size+i/8)
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
	// Files that were cut under the ledger are noticed at their next use.
	for _, one := range set {
		if b, ok, _ := r.Held(Want{Digest: one.d}); ok {
			b.Close()
		}
	}
	for end := time.Now().Add(5 * time.Second); r.o.Ledger.Status().Evicted != 0 && time.Now().Before(end); {
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
	if n := len(r.handles.open); n != 0 {
		t.Errorf("%d handles left", n)
	}
}
