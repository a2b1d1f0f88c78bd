//go:build linux

package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"hubcap/e2e/testkit"
)

// TestContinueUncachedReadsTheSize has the file of one reader fail at the moment
// when the size becomes known. Run with -race.
func TestContinueUncachedReadsTheSize(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(203, mib)
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
	(*unexported[*os.File](t, b.body, "file")).Close()
	var c client
	if err := b.Send(t.Context(), &c, 0, -1); err != nil || !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d bytes, %v", c.Len(), err)
	}
}

// TestContinueUncachedUsesTheReadersSource has the disk fail under two readers with
// a source each, one of which fails too.
func TestContinueUncachedUsesTheReadersSource(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	body, d := randomContent(230, 2*mib)
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

// TestPartOfAnUncachedBlob shows that a reader of a range that continues uncached
// after a failure of the disk fetches that range only.
func TestPartOfAnUncachedBlob(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: 2 * mib})
	body, d := randomContent(243, 16*mib)
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

// TestClientLeavesAnUncachedStream has a client leave while the source is silent.
func TestClientLeavesAnUncachedStream(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	_, d := randomContent(211, 10)
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
	case <-time.After(testkit.Patience):
		t.Error("the reader outlives its client until the source stalls out or hubcap stops")
		r.Cache.stop(errStopped)
		<-done
	}
	b.Close()
}

// blocked is a body without bytes, whose Read returns when its context ends.
type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, context.Cause(b.ctx) }

func (b blocked) Close() error { return nil }

type blockedSource struct{ size int64 }

func (s blockedSource) Open(ctx context.Context, _, _ int64) (*Stream, error) {
	return &Stream{Body: blocked{ctx}, Size: s.size}, nil
}

// TestPanicInClosing has a source panic when an uncached stream without a reader is
// closed.
func TestPanicInClosing(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	_, d := randomContent(234, 10)
	open, opened := make(chan struct{}), make(chan struct{})
	src := panickingClose{size: 2 * mib, open: open, opened: opened}
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-opened; leave() }()
	if _, err := r.Open(ctx, Want{Digest: d, Source: src, Size: -1}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	close(open)
	for end := time.Now().Add(testkit.Patience); ; time.Sleep(time.Millisecond) {
		if r.digests.Count() == 0 {
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

func (panickingClose) Close() error { panic("a bug") }
