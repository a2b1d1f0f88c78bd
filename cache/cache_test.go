package cache

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"hubcap/cache/blobs"
	"hubcap/cache/index"
	"hubcap/e2e/testkit"
	"hubcap/eviction"
	"hubcap/eviction/advisor"
	"hubcap/metrics"
)

func TestMain(m *testing.M) {
	testkit.InMemory()
	// Badger's and ristretto's own goroutines end a little after Close.
	testkit.VerifyMain(m, goleak.IgnoreAnyFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

const kib, mib = 1 << 10, 1 << 20

// rig is a cache in a directory of its own.
type rig struct {
	*Cache
	t   testing.TB
	dir string
	log *testkit.Log
}

type rigOptions struct {
	dir     string // a new one when empty
	limit   int64
	maxBlob int64
	change  func(*Options) // or nil
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	if o.limit == 0 {
		o.limit = 1 << 30
	}
	if o.maxBlob == 0 {
		o.maxBlob = o.limit
	}
	r := &rig{t: t, dir: o.dir, log: new(testkit.Log)}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	store, err := blobs.Open(o.dir)
	// A process that another test is just starting has the files of this one,
	// until it runs: among them the lock of a cache that was closed.
	for begun := time.Now(); errors.Is(err, blobs.ErrInUse) && time.Since(begun) < testkit.Patience; store, err = blobs.Open(o.dir) {
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	idx, err := index.Open(index.Options{Dir: store.Dir(), Room: store.Room, Reserve: 1 << 20, Interval: time.Hour, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	all := metrics.New()
	options := Options{
		Store: store, Index: idx, MaxBlob: o.maxBlob, ManifestMemory: mib,
		Capacity: advisor.NewCapacity(time.Now),
		Ledger: eviction.NewLedger(eviction.LedgerOptions{
			Limit: o.limit, SmallSize: 4 * kib, SmallShare: 0.05, High: 1, Low: 0.9, Now: time.Now, Metrics: all.Space,
		}),
		FlushInterval: time.Hour, SweepInterval: time.Hour, StartWithin: time.Hour, Patience: time.Minute, VerifyInterval: 7 * 24 * time.Hour, Now: time.Now, Connections: 4, MaxFills: 64, MaxConnections: 64, MaxPerHost: 16, Metrics: all, Log: log,
	}
	if o.change != nil {
		o.change(&options)
	}
	r.Cache = New(options)
	// The bytes of the index would exceed the small budgets of these tests.
	r.o.Ledger.SetOverhead(0)
	t.Cleanup(r.stop)
	return r
}

// stop ends the rig, once.
func (r *rig) stop() {
	if r.Cache == nil {
		return
	}
	r.Close()
	if err := errors.Join(r.o.Index.Close(), r.o.Store.Close()); err != nil {
		r.t.Error(err)
	}
	if strings.Contains(r.log.String(), "illegal transition") {
		r.t.Error("a fill made an illegal transition; see the log")
	}
	r.Cache = nil
}

// settle waits until no fill is on the list.
func (r *rig) settle() {
	r.t.Helper()
	eventually(r.t, "fills end", func() bool {
		running, _ := r.fills.Count()
		return running == 0
	})
	eventually(r.t, "locks are given back", func() bool { return r.digests.Count() == 0 })
}

// checkLedger compares the ledger with the files.
func (r *rig) checkLedger() {
	r.t.Helper()
	r.settle()
	// Who finds a digest's lock taken leaves it to its holder, or the janitor, to unlink.
	eventually(r.t, "what was evicted is unlinked", func() bool { return r.o.Ledger.Status().Evicted == 0 })
	var onDisk, count int64
	err := r.o.Store.Walk(func(_ digest.Digest, _ blobs.Class, size int64, _ time.Time) error {
		onDisk += (size + 4095) / 4096 * 4096
		count++
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	s := r.o.Ledger.Status()
	if objects, held := s.Held(); held != onDisk || int64(objects) != count || s.Reserved != 0 || s.Evicted != 0 {
		r.t.Errorf("ledger: %d bytes in %d objects, reserved %d, evicted %d; files: %d bytes in %d",
			held, objects, s.Reserved, s.Evicted, onDisk, count)
	}
	var partial int64
	left, err := filepath.Glob(filepath.Join(r.dir, "partial", "*"))
	for _, name := range left {
		note, noteErr := os.ReadFile(name + ".note")
		if strings.HasSuffix(name, ".note") {
			continue
		}
		n, _, ok := decodeNote(note, 1<<62)
		if noteErr != nil || !ok {
			r.t.Errorf("a partial file that the ledger does not count: %s, %v", name, noteErr)
		}
		partial += n
	}
	if err != nil || partial != s.Partial {
		r.t.Errorf("partial files of %d bytes, counted are %d: %v, %v", partial, s.Partial, left, err)
	}
}

var eventually = testkit.Eventually

// randomContent returns n reproducible bytes and their digest.
func randomContent(seed uint64, n int) ([]byte, digest.Digest) {
	var key [aes.BlockSize]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	body := make([]byte, n)
	cipher.NewCTR(block, key[:]).XORKeyStream(body, body) // faster than math/rand
	return body, digest.FromBytes(body)
}

// origin is a Source whose script may change each of its answers.
type origin struct {
	body    []byte
	opens   atomic.Int64
	unsized bool // does not say how long the blob is
	noRange bool // begins at 0 whatever was asked
	script  func(open int64, off int64, r io.Reader) (io.Reader, error)
}

func (o *origin) Open(_ context.Context, off, n int64) (*Stream, error) {
	open := o.opens.Add(1)
	if o.noRange {
		off, n = 0, -1
	}
	if o.unsized { // as a registry that answers in chunks
		n = -1
	}
	end := int64(len(o.body))
	if n >= 0 {
		end = min(end, off+n)
	}
	var r io.Reader = bytes.NewReader(o.body[off:end])
	if o.script != nil {
		var err error
		if r, err = o.script(open, off, r); err != nil {
			return nil, err
		}
	}
	size := int64(len(o.body))
	if o.unsized {
		size, end = -1, -1
	}
	return &Stream{Body: io.NopCloser(r), Off: off, End: end, Size: size, Part: n >= 0}, nil
}

// down is a source that does not answer.
func down() *origin {
	return &origin{script: func(int64, int64, io.Reader) (io.Reader, error) { return nil, permanent{ErrSource} }}
}

// cutAfter ends r with an error after n bytes.
func cutAfter(r io.Reader, n int64) io.Reader {
	return io.MultiReader(io.LimitReader(r, n), errReader{io.ErrUnexpectedEOF})
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// gate blocks its reader until it is opened.
type gate struct {
	r    io.Reader
	open chan struct{}
}

func (g gate) Read(p []byte) (int, error) {
	<-g.open
	return g.r.Read(p)
}

// client is a Sink in memory.
type client struct {
	bytes.Buffer
	flushed chan struct{} // gets a value at each flush, when not nil
}

func (c *client) FlushError() error {
	if c.flushed != nil {
		select {
		case c.flushed <- struct{}{}:
		default:
		}
	}
	return nil
}

// get reads n bytes of d from off; n < 0 is all.
func (r *rig) get(d digest.Digest, src Source, off, n int64) ([]byte, Origin, error) {
	b, err := r.Open(context.Background(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		return nil, 0, err
	}
	defer b.Close()
	var c client
	c.Grow(int(max(b.Size, 0)) + bytes.MinRead)
	err = b.Send(context.Background(), &c, off, n)
	return c.Bytes(), b.Origin, err
}

func (r *rig) mustGet(d digest.Digest, src Source, want []byte) Origin {
	r.t.Helper()
	got, from, err := r.get(d, src, 0, -1)
	if err != nil {
		r.t.Fatalf("get %d bytes: %v", len(want), err)
	}
	if !bytes.Equal(got, want) {
		r.t.Fatalf("got %d bytes that differ from the %d wanted", len(got), len(want))
	}
	return from
}

func TestColdThenWarm(t *testing.T) {
	for _, size := range []int{0, 1, tail - 1, tail, tail + 1, buffer, 3*mib + 7} {
		for _, unsized := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, unsized %v", size, unsized), func(t *testing.T) {
				r := newRig(t, rigOptions{})
				body, d := randomContent(1, size)
				src := &origin{body: body, unsized: unsized}
				if from := r.mustGet(d, src, body); from != Filling {
					t.Errorf("cold: origin %d", from)
				}
				r.checkLedger()
				if from := r.mustGet(d, src, body); from != Held {
					t.Errorf("warm: origin %d", from)
				}
				if n := src.opens.Load(); n != 1 {
					t.Errorf("source opened %d times", n)
				}
			})
		}
	}
}

func TestManyReadersOneTransfer(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(2, 2*mib)
	src := &origin{body: body}
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			off := int64(0)
			if i%2 == 1 {
				off = int64(i) * 30_000
			}
			got, _, err := r.get(d, src, off, int64(len(body))-off)
			if err != nil || !bytes.Equal(got, body[off:]) {
				t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	all.Wait()
	if n := src.opens.Load(); n != 1 {
		t.Errorf("source opened %d times", n)
	}
	r.checkLedger()
}

// checker is a Sink that compares and keeps nothing. It blocks at its first
// bytes until it may go on.
type checker struct {
	rest []byte
	goOn chan struct{} // nil for at once
}

func (c *checker) Write(p []byte) (int, error) {
	if c.goOn != nil {
		<-c.goOn
	}
	if !bytes.HasPrefix(c.rest, p) {
		return 0, errors.New("wrong bytes")
	}
	c.rest = c.rest[len(p):]
	return len(p), nil
}

func (c *checker) FlushError() error { return nil }

// TestThousandReadersAndASlowOne has a thousand readers follow one transfer. One of
// them reads nothing for a while, which delays no other.
func TestThousandReadersAndASlowOne(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(4, mib)
	src := &origin{body: body}
	read := func(goOn chan struct{}) {
		b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
		if err != nil {
			t.Error(err)
			return
		}
		defer b.Close()
		c := &checker{rest: body, goOn: goOn}
		if err := b.Send(t.Context(), c, 0, -1); err != nil || len(c.rest) != 0 {
			t.Errorf("%d bytes missing, %v", len(c.rest), err)
		}
	}
	goOn := make(chan struct{})
	var slow, all sync.WaitGroup
	slow.Go(func() { read(goOn) })
	for range 1000 {
		all.Go(func() { read(nil) })
	}
	all.Wait()
	close(goOn)
	slow.Wait()
	if n := src.opens.Load(); n != 1 {
		t.Errorf("source opened %d times", n)
	}
	r.checkLedger()
}

func TestFirstReaderLeavesAndTheFillGoesOn(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(3, 2*mib)
	open := make(chan struct{})
	src := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) {
		return io.MultiReader(io.LimitReader(in, mib), gate{in, open}), nil
	}}
	ctx, leave := context.WithCancel(t.Context())
	b, err := r.Open(ctx, Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error)
	first := &client{flushed: make(chan struct{}, 1)}
	go func() { left <- b.Send(ctx, first, 0, b.Size) }()
	<-first.flushed
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("the first reader: %v", err)
	}
	b.Close()
	close(open)
	r.settle()
	r.mustGet(d, src, body)
	if n := src.opens.Load(); n != 1 {
		t.Errorf("source opened %d times", n)
	}
	r.checkLedger()
}

func TestResume(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		noRange bool
		unsized bool
		script  func(open, off int64, in io.Reader) (io.Reader, error)
		opens   int64
	}{
		{name: "cut twice", opens: 3, script: func(open, _ int64, in io.Reader) (io.Reader, error) {
			if open <= 2 {
				in = cutAfter(in, 700*kib)
			}
			return in, nil
		}},
		{name: "cut, without ranges", noRange: true, opens: 2, script: func(open, _ int64, in io.Reader) (io.Reader, error) {
			if open == 1 {
				in = cutAfter(in, 700*kib)
			}
			return in, nil
		}},
		{name: "cut, of unknown size", unsized: true, opens: 2, script: func(open, _ int64, in io.Reader) (io.Reader, error) {
			if open == 1 {
				in = cutAfter(in, 700*kib)
			}
			return in, nil
		}},
		{name: "ends too early without an error", opens: 2, script: func(open, _ int64, in io.Reader) (io.Reader, error) {
			if open == 1 {
				in = io.LimitReader(in, 5)
			}
			return in, nil
		}},
		{name: "refuses for a while", opens: 3, script: func(open, _ int64, in io.Reader) (io.Reader, error) {
			switch open {
			case 1:
				return cutAfter(in, 700*kib), nil
			case 2:
				return nil, errors.New("connection refused")
			}
			return in, nil
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			body, d := randomContent(4, 2*mib)
			src := &origin{body: body, noRange: tc.noRange, unsized: tc.unsized, script: tc.script}
			r.mustGet(d, src, body)
			if n := src.opens.Load(); n != tc.opens {
				t.Errorf("source opened %d times, want %d", n, tc.opens)
			}
			r.checkLedger()
		})
	}
}

// notFound is a final failure of a source.
type notFound struct{}

func (notFound) Error() string   { return "not found" }
func (notFound) Temporary() bool { return false }

func TestFailuresReachTheReaderAndNothingIsKept(t *testing.T) {
	t.Parallel()
	body, d := randomContent(5, 2*mib)
	flip := func(at int) []byte {
		bad := bytes.Clone(body)
		bad[at] ^= 1
		return bad
	}
	for _, tc := range []struct {
		name string
		src  *origin
		want error
		most int // bytes that the reader may have got
	}{
		{"first byte wrong", &origin{body: flip(0)}, ErrWrongContent, len(body) - tail},
		{"last byte wrong", &origin{body: flip(len(body) - 1)}, ErrWrongContent, len(body) - tail},
		{"last byte wrong, size unknown", &origin{body: flip(len(body) - 1), unsized: true}, ErrWrongContent, len(body) - tail},
		{"too short", &origin{body: body[:mib]}, ErrWrongContent, mib - tail},
		{"too long", &origin{body: append(bytes.Clone(body), 'x')}, ErrWrongContent, len(body) + 1 - tail},
		{"empty", &origin{body: nil}, ErrWrongContent, 0},
		{"a web page", &origin{body: []byte("<html>log in</html>")}, ErrWrongContent, 0},
		{"not there", &origin{script: func(int64, int64, io.Reader) (io.Reader, error) { return nil, notFound{} }}, notFound{}, 0},
		{"gone in mid-transfer", &origin{body: body, script: func(open, _ int64, in io.Reader) (io.Reader, error) {
			if open > 1 {
				return nil, notFound{}
			}
			return cutAfter(in, mib), nil
		}}, notFound{}, mib},
		{"another length after a break", &origin{body: body}, ErrSource, mib},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			if errors.Is(tc.want, ErrSource) {
				src := tc.src
				src.script = func(open, _ int64, in io.Reader) (io.Reader, error) {
					if open == 1 {
						return cutAfter(in, mib), nil
					}
					src.body = append(bytes.Clone(body), 'x')
					return in, nil
				}
			}
			got, _, err := r.get(d, tc.src, 0, -1)
			if !errors.Is(err, tc.want) {
				t.Errorf("err = %v, want %v", err, tc.want)
			}
			if len(got) > tc.most {
				t.Errorf("%d bytes reached the reader, at most %d may", len(got), tc.most)
			}
			r.checkLedger()
			if _, ok, _ := r.Held(Want{Digest: d}); ok {
				t.Error("it was kept")
			}
			r.mustGet(d, &origin{body: body}, body)
		})
	}
}

func TestRangeThatEndsEarlierMayComplete(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(6, 2*mib)
	got, _, err := r.get(d, &origin{body: body}, 100, 1000)
	if err != nil || !bytes.Equal(got, body[100:1100]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func TestWrongContentIsRemembered(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(7, mib)
	if _, _, err := r.get(d, &origin{body: body[:mib-1]}, 0, -1); !errors.Is(err, ErrWrongContent) {
		t.Fatal(err)
	}
	r.settle()
	b, err := r.Open(t.Context(), Want{Digest: d, Source: &origin{body: body}, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	if !b.RecentlyWrong {
		t.Error("the next reader is not told")
	}
	b.Close()
	r.settle()
	b, ok, _ := r.Held(Want{Digest: d})
	if !ok {
		t.Fatal("not kept")
	}
	defer b.Close()
	if !b.RecentlyWrong {
		t.Error("a client with a wrong beginning may still come for the rest")
	}
}

// TestDigestDecidesNotTheSize requests blobs for which the manifest gives no length
// or a wrong one: in one piece and in several, whole and in part, stored and
// uncached. The log warns of a wrong length once for each transfer.
func TestDigestDecidesNotTheSize(t *testing.T) {
	t.Parallel()
	for _, maxBlob := range []int64{1 << 30, mib} {
		r := newRig(t, rigOptions{maxBlob: maxBlob})
		for _, length := range []int64{0, 1, tail, 12 * mib} {
			body, d := randomContent(8, int(length))
			sizes := []int64{-1, 0, length - 1, length, length + 1, 1 << 60}
			parts := []span{{0, length}, {length / 2, length}, {length / 3, length / 2}}
			if testing.Short() && length > mib {
				sizes, parts = []int64{-1, length - 1}, parts[1:]
			}
			for _, manifest := range sizes {
				for _, unsized := range []bool{false, true} {
					for _, part := range parts {
						name := fmt.Sprintf("%v of %d bytes, %d in the manifest, unsized %v, at most %d kept", part, length, manifest, unsized, maxBlob)
						t.Run(name, func(t *testing.T) {
							r.t = t
							r.getWithSize(&origin{body: body, unsized: unsized}, d, manifest, part)
						})
					}
				}
			}
		}
		r.t = t
	}
}

// getWithSize reads part of a blob for which the manifest gives a length, and
// has it evicted.
func (r *rig) getWithSize(src *origin, d digest.Digest, manifest int64, part span) {
	r.t.Helper()
	length := int64(len(src.body))
	before := strings.Count(r.log.String(), "another length")
	b, err := r.Open(r.t.Context(), Want{Digest: d, Source: src, Size: manifest, Off: part.off})
	if err != nil {
		r.t.Fatal(err)
	}
	defer b.Close()
	n := part.end - part.off
	if unsized := b.Size < 0; unsized && part.end == length {
		n = -1
	}
	var c client
	c.Grow(int(part.end-part.off) + bytes.MinRead)
	if err := b.Send(r.t.Context(), &c, part.off, n); err != nil || !bytes.Equal(c.Bytes(), src.body[part.off:part.end]) {
		r.t.Errorf("%d bytes, %v", c.Len(), err)
	}
	if b.Size != length && (b.Size >= 0 || !src.unsized) {
		r.t.Errorf("its length is given as %d", b.Size)
	}
	r.checkLedger()
	if kept := r.o.Ledger.Evict(d); kept != (length <= r.o.MaxBlob) {
		r.t.Errorf("kept: %v", kept)
	}
	r.Remove(d)
	wrong := !src.unsized && manifest >= 0 && manifest != length
	if warned := strings.Count(r.log.String(), "another length") > before; warned != wrong {
		r.t.Errorf("the log warns of a wrong length: %v, want %v", warned, wrong)
	}
}

// TestPartialContinuesWhateverTheManifestSays continues a partial fill for which another
// manifest gives another length.
func TestPartialContinuesWhateverTheManifestSays(t *testing.T) {
	body, d := randomContent(301, partialSize)
	for _, manifest := range []int64{-1, 0, partialSize - 1, partialSize + 1} {
		t.Run(fmt.Sprint(manifest), func(t *testing.T) {
			r := newRig(t, rigOptions{})
			r.leave(d, body)
			before := r.o.Ledger.Status().Partial
			src := &origin{body: body}
			b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: manifest})
			if err != nil {
				t.Fatal(err)
			}
			r.mustSend(opening{b: b}, body)
			if before == 0 || !strings.Contains(r.log.String(), "a partial fill is continued") {
				t.Errorf("it began again: %s", r.log)
			}
			r.checkLedger()
		})
	}
}

func TestAnotherRepositorysFailureIsNotMine(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(9, mib)
	open := make(chan struct{})
	failing := &origin{script: func(int64, int64, io.Reader) (io.Reader, error) {
		<-open
		return nil, notFound{}
	}}
	first := make(chan error)
	go func() {
		_, _, err := r.get(d, failing, 0, -1)
		first <- err
	}()
	eventually(t, "the fill begins", func() bool { return failing.opens.Load() == 1 })
	second := make(chan error)
	go func() {
		got, _, err := r.get(d, &origin{body: body}, 0, -1)
		if err == nil && !bytes.Equal(got, body) {
			err = errors.New("wrong bytes")
		}
		second <- err
	}()
	eventually(t, "the second joins", func() bool {
		all := r.Fills()
		return len(all) == 1 && all[0].Readers == 2
	})
	close(open)
	if err := <-first; !errors.Is(err, notFound{}) {
		t.Errorf("first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
	r.checkLedger()
}

// TestManyOthersFail has many clients request one blob, each from a source of its own
// that does not have it: each gets the failure of its own source, however many fills
// of others fail meanwhile. A client whose source has the blob then gets it.
func TestManyOthersFail(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(9, mib)
	var all sync.WaitGroup
	for range 400 {
		all.Go(func() {
			for range 10 {
				refuses := &origin{script: func(int64, int64, io.Reader) (io.Reader, error) { return nil, notFound{} }}
				b, err := r.Open(t.Context(), Want{Digest: d, Source: refuses, Size: mib})
				if err == nil {
					b.Close()
					t.Error("it is said to be there")
					return
				}
			}
		})
	}
	all.Wait()
	got, _, err := r.get(d, &origin{body: body}, 0, -1)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestWhatDoesNotFitIsStreamed(t *testing.T) {
	body, d := randomContent(10, 3*mib)
	bad := bytes.Clone(body)
	bad[len(bad)-1] ^= 1
	for _, tc := range []struct {
		name    string
		options rigOptions
	}{
		{"larger than the largest blob", rigOptions{maxBlob: mib}},
		{"larger than the cache", rigOptions{limit: mib, maxBlob: 1 << 30}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, unsized := range []bool{false, true} {
				r := newRig(t, tc.options)
				src := &origin{body: body, unsized: unsized}
				from := r.mustGet(d, src, body)
				if !unsized && from != Uncached {
					t.Errorf("origin %d", from)
				}
				if n := src.opens.Load(); !unsized && n != 1 {
					t.Errorf("one reader, source opened %d times", n)
				}
				got, _, err := r.get(d, src, mib, 1000)
				if err != nil || !bytes.Equal(got, body[mib:mib+1000]) {
					t.Errorf("part: %d bytes, %v", len(got), err)
				}
				got, _, err = r.get(d, src, mib, 2*mib)
				if err != nil || !bytes.Equal(got, body[mib:]) {
					t.Errorf("end: %d bytes, %v", len(got), err)
				}
				got, _, err = r.get(d, &origin{body: bad, unsized: unsized}, 0, -1)
				if !errors.Is(err, ErrWrongContent) || len(got) > len(bad)-tail {
					t.Errorf("wrong content: %d bytes, %v", len(got), err)
				}
				r.checkLedger()
				r.stop()
			}
		})
	}
}

func TestManyReadersOfWhatDoesNotFit(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	body, d := randomContent(11, 2*mib)
	src := &origin{body: body}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			got, _, err := r.get(d, src, 0, -1)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	all.Wait()
	if n := src.opens.Load(); n > 8 {
		t.Errorf("8 readers, source opened %d times", n)
	}
	r.checkLedger()
}

func TestDamagedFileIsReplacedWithinTheAnswer(t *testing.T) {
	body, d := randomContent(12, 2*mib)
	for _, tc := range []struct {
		name   string
		damage func(path string) error
	}{
		{"gone", os.Remove},
		{"short", func(path string) error { return os.Truncate(path, 1000) }},
		{"empty", func(path string) error { return os.Truncate(path, 0) }},
		{"a directory", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }},
		{"a symbolic link", func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigOptions{})
			src := &origin{body: body}
			r.mustGet(d, src, body)
			r.settle()
			path := filepath.Join(r.dir, "blobs/open/sha256", d.Encoded()[:2], d.Encoded())
			if err := tc.damage(path); err != nil {
				t.Fatal(err)
			}
			r.mustGet(d, src, body)
			r.checkLedger()
			if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(body)) {
				t.Errorf("not replaced: %v, %v", info, err)
			}
		})
	}
}

func TestFileThatShrinksUnderItsReaderIsReplaced(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(13, 3*mib)
	src := &origin{body: body}
	r.mustGet(d, src, body)
	r.settle()
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	path := filepath.Join(r.dir, "blobs/open/sha256", d.Encoded()[:2], d.Encoded())
	if err := os.Truncate(path, mib+5); err != nil {
		t.Fatal(err)
	}
	var c client
	if err := b.Send(t.Context(), &c, 0, b.Size); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
	r.checkLedger()
}

func TestRestartKeepsTheOrderOfUse(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir, limit: 4 * mib})
	one, d1 := randomContent(14, mib)
	two, d2 := randomContent(15, mib)
	three, d3 := randomContent(16, mib)
	for d, body := range map[digest.Digest][]byte{d1: one, d2: two, d3: three} {
		r.mustGet(d, &origin{body: body}, body)
	}
	r.settle()
	past := time.Now().Add(-time.Hour)
	for i, d := range []digest.Digest{d3, d1} {
		r.usage.used[d] = past.Add(time.Duration(i) * time.Minute)
	}
	delete(r.usage.used, d2) // its file's time counts, which is now
	r.stop()
	if err := os.WriteFile(filepath.Join(dir, "partial", "sha256-left"), one, 0o600); err != nil {
		t.Fatal(err)
	}

	r = newRig(t, rigOptions{dir: dir, limit: 4 * mib})
	r.checkLedger()
	var got []digest.Digest
	for _, size := range []int64{2 * mib, 3 * mib, 4 * mib} {
		got = append(got, r.o.Ledger.MakeRoom(size)...)
	}
	if want := []digest.Digest{d3, d1, d2}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("evicted in the order %v, want %v", got, want)
	}
	// An hour and 59 minutes in the large segment, and the moment since d2's file was made.
	const least = 119 * 60
	if age, _ := r.o.Metrics.Value("hubcap_eviction_age_seconds", "segment", "large"); age < least || age > least+30 {
		t.Errorf("%v seconds unused in all, want %v", age, least)
	}
	for _, d := range got {
		r.Remove(d)
	}
}

func TestManifests(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	put := func(mediaType, body string) Manifest {
		one := Manifest{Digest: digest.FromString(body), MediaType: mediaType, Body: []byte(body)}
		stored := make(chan struct{})
		r.PutManifest(one, func() { close(stored) })
		<-stored
		return one
	}
	oci := put("application/vnd.oci.image.manifest.v1+json", `{"schemaVersion":2,"config":{},"layers":[]}`)
	list := put("application/vnd.oci.image.index.v1+json", `{"schemaVersion":2,"manifests":[]}`)
	docker := put("application/vnd.docker.distribution.manifest.v2+json", `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{}}`)
	odd := put("application/vnd.odd+json", `{"anything":true}`)
	layer, layerDigest := randomContent(17, 100)
	r.mustGet(layerDigest, &origin{body: layer}, layer)
	r.checkLedger()

	check := func(when string, want ...Manifest) {
		t.Helper()
		for _, m := range want {
			if got, ok := r.Manifest(m.Digest); !ok || got.MediaType != m.MediaType || !bytes.Equal(got.Body, m.Body) {
				t.Errorf("%s: %+v, %v; want %+v", when, got, ok, m)
			}
		}
		if _, ok := r.Manifest(layerDigest); ok {
			t.Errorf("%s: a layer is no manifest", when)
		}
	}
	check("from memory", oci, list, docker, odd)
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	check("after a restart", oci, list, docker, odd)
	r.stop()
	if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, rigOptions{dir: dir})
	check("without the index", oci, list, docker, odd)
	r.stop()
	for _, name := range []string{"index", "snapshot"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r = newRig(t, rigOptions{dir: dir})
	check("without the index and the snapshot", oci, list, docker)
	if _, ok := r.Manifest(odd.Digest); ok {
		t.Error("a manifest that does not say what it is cannot be known without the index")
	}
	path := filepath.Join(dir, "blobs/open/sha256", oci.Digest.Encoded()[:2], oci.Digest.Encoded())
	r.manifests.remove(oci.Digest)
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), len(oci.Body)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Manifest(oci.Digest); ok {
		t.Error("a damaged manifest was served")
	}
	eventually(t, "the damaged file is removed", func() bool { // by the janitor, if it is there first
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	})
}

func TestManifestMemoryIsBounded(t *testing.T) {
	m := newManifests(10*kib, time.Now())
	for i := range 100 {
		body := []byte(strings.Repeat("x", 1000) + fmt.Sprint(i))
		m.put(Manifest{Digest: digest.FromBytes(body), Body: body})
		if m.bytes > 10*kib {
			t.Fatalf("%d bytes", m.bytes)
		}
	}
	if n := m.list.Len(); n < 5 {
		t.Errorf("only %d kept", n)
	}
}

// TestChurn pulls far more than fits from many goroutines, some of which leave early.
// It compares every byte, and at the end the ledger with the files.
func TestChurn(t *testing.T) {
	const limit = 10 * mib
	r := newRig(t, rigOptions{limit: limit})
	type blob struct {
		body []byte
		d    digest.Digest
	}
	var set []blob
	for i := range 40 {
		body, d := randomContent(uint64(100+i), 1000+i*30_000)
		set = append(set, blob{body, d})
	}
	var all sync.WaitGroup
	for worker := range 16 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 1))
			for range 60 {
				one := set[rnd.IntN(len(set))]
				ctx, leave := context.WithCancel(context.Background())
				if rnd.IntN(4) == 0 {
					leave()
				}
				b, err := r.Open(ctx, Want{Digest: one.d, Source: &origin{body: one.body}, Size: -1})
				if err == nil {
					off := rnd.Int64N(b.Size)
					var c client
					if err = b.Send(ctx, &c, off, b.Size-off); err == nil && !bytes.Equal(c.Bytes(), one.body[off:]) {
						t.Error("wrong bytes")
					}
					b.Close()
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
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
	r.checkLedger()
}

func TestClosingEndsFillsAndReaders(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(18, 2*mib)
	open := make(chan struct{})
	src := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) {
		return io.MultiReader(io.LimitReader(in, mib), gate{errReader{io.ErrUnexpectedEOF}, open}), nil
	}}
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	first := &client{flushed: make(chan struct{}, 1)}
	ended := make(chan error)
	go func() { ended <- b.Send(t.Context(), first, 0, b.Size) }()
	<-first.flushed
	go close(open)
	r.Close()
	if err := <-ended; !errors.Is(err, errStopped) {
		t.Errorf("reader: %v", err)
	}
	b.Close()
	r.checkLedger()
}

// panicking is a Source with a bug.
type panicking struct{}

func (panicking) Open(context.Context, int64, int64) (*Stream, error) { panic("a bug") }

func TestPanicEndsOneFill(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(19, mib)
	for name, src := range map[string]Source{
		"in opening": panicking{},
		"in reading": &origin{body: body, script: func(int64, int64, io.Reader) (io.Reader, error) { return panicReader{}, nil }},
	} {
		_, _, err := r.get(d, src, 0, -1)
		if err == nil || !strings.Contains(err.Error(), "panic:") {
			t.Errorf("%s: %v", name, err)
		}
		r.checkLedger()
	}
	r.mustGet(d, &origin{body: body}, body)
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("a bug") }

// opening is the result of an Open.
type opening struct {
	b   *Blob
	err error
}

// mustSend reads the whole of what was opened.
func (r *rig) mustSend(o opening, body []byte) {
	r.t.Helper()
	if o.err != nil {
		r.t.Errorf("the pull fails: %v", o.err)
		return
	}
	defer o.b.Close()
	var c client
	c.Grow(len(body) + bytes.MinRead)
	if err := o.b.Send(context.Background(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		r.t.Errorf("%d bytes, %v", c.Len(), err)
	}
}

// sourceFunc is a source made of a function.
type sourceFunc func(ctx context.Context, off, n int64) (*Stream, error)

func (f *sourceFunc) Open(ctx context.Context, off, n int64) (*Stream, error) {
	return (*f)(ctx, off, n)
}
