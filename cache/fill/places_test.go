package fill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/e2e/testkit"
)

// nearby is a Nearer with fixed places.
type nearby struct{ places []Place }

func (n nearby) Places() []Place { return n.places }
func (nearby) Boxes() bool       { return true }

// sink is a client in memory.
type sink struct{ bytes.Buffer }

func (*sink) FlushError() error { return nil }

// from returns a source of body that waits for open before each answer, if it is not
// nil.
func from(body []byte, open <-chan struct{}) *sourceFunc {
	f := sourceFunc(func(ctx context.Context, off, n int64) (*Stream, error) {
		if open != nil {
			select {
			case <-open:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		end := int64(len(body))
		if n >= 0 {
			end = min(end, off+n)
		}
		return &Stream{Body: io.NopCloser(bytes.NewReader(body[off:end])), Off: off, End: end, Size: int64(len(body))}, nil
	})
	return &f
}

func refuses() *sourceFunc {
	f := sourceFunc(func(context.Context, int64, int64) (*Stream, error) { return nil, errors.New("refused") })
	return &f
}

// TestPlaces has a fill take its bytes from the second of two places, unpaced and with
// all connections to the registry taken, and refuses a box meanwhile.
func TestPlaces(t *testing.T) {
	s := newFills(t, func(o *Options) { o.Bandwidth, o.MaxConnections, o.MaxPerHost = 16*kib, 1, 1 })
	release, err := s.slots.acquire(t.Context(), "registry")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	body := bytes.Repeat([]byte("from a box "), 100*kib)
	open := make(chan struct{})
	wrong := func() { t.Error("a place that gave right bytes is called wrong") }
	want := Want{
		Digest: digest.FromBytes(body), Source: refuses(), Host: "registry", Size: int64(len(body)),
		Near: nearby{[]Place{{Source: refuses(), Name: "one", Wrong: wrong}, {Source: from(body, open), Name: "two", Wrong: wrong}}},
	}
	stored := func() bool { return false }
	f, began, err := s.Join(want, false, stored)
	if err != nil || !began {
		t.Fatal(began, err)
	}
	box := want
	box.Near, box.Peer = nil, true
	if _, _, err := s.Join(box, false, stored); !errors.Is(err, ErrFed) {
		t.Errorf("a box joins: %v, want ErrFed", err)
	}
	close(open)
	o, err := f.Open(t.Context(), want, began)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var got sink
	begun := time.Now()
	if _, err := o.Send(t.Context(), &got, 0, o.Size); err != nil || !bytes.Equal(got.Bytes(), body) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	if took := time.Since(begun); took > 20*time.Second { // paced, it takes 70 s
		t.Errorf("it took %s: the bytes of a box are paced", took)
	}
}

// TestBoxJoinsWhatTheRegistryFeeds: once the registry was asked, a fill waits for no
// box any more.
func TestBoxJoinsWhatTheRegistryFeeds(t *testing.T) {
	s := newFills(t)
	body := bytes.Repeat([]byte("from the registry "), 10*kib)
	open := make(chan struct{})
	want := Want{
		Digest: digest.FromBytes(body), Source: from(body, open), Host: "registry", Size: int64(len(body)),
		Near: nearby{[]Place{{Source: refuses(), Name: "one", Wrong: func() {}}}},
	}
	stored := func() bool { return false }
	if _, _, err := s.Join(want, false, stored); err != nil {
		t.Fatal(err)
	}
	box := want
	box.Near, box.Peer = nil, true
	for end := time.Now().Add(testkit.Patience); ; time.Sleep(time.Millisecond) {
		f, began, err := s.Join(box, false, stored)
		if errors.Is(err, ErrFed) && time.Now().Before(end) {
			continue // the place has not refused yet
		}
		if err != nil || began {
			t.Fatal(began, err)
		}
		close(open)
		o, err := f.Open(t.Context(), box, false)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		var got sink
		if _, err := o.Send(t.Context(), &got, 0, o.Size); err != nil || !bytes.Equal(got.Bytes(), body) {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		return
	}
}

// TestNextPlaceIsWaitedFor: when the box that fed a fill dies, the next one has lost it
// too and is fed for another moment; it is asked again before the registry is.
func TestNextPlaceIsWaitedFor(t *testing.T) {
	s := newFills(t, func(o *Options) { o.Connections = 1 })
	body := bytes.Repeat([]byte("from the next box "), 100*kib)
	died := false
	first := sourceFunc(func(_ context.Context, off, _ int64) (*Stream, error) {
		if died {
			return nil, errors.New("it is dead")
		}
		died = true
		half := io.MultiReader(bytes.NewReader(body[off:len(body)/2]), failing{})
		return &Stream{Body: io.NopCloser(half), Off: off, End: int64(len(body)), Size: int64(len(body))}, nil
	})
	asked := 0
	next := sourceFunc(func(ctx context.Context, off, n int64) (*Stream, error) {
		if asked++; asked < 3 {
			return nil, ErrFed
		}
		return (*from(body, nil))(ctx, off, n)
	})
	far := sourceFunc(func(context.Context, int64, int64) (*Stream, error) {
		t.Error("the registry was asked")
		return nil, errors.New("refused")
	})
	want := Want{
		Digest: digest.FromBytes(body), Source: &far, Host: "registry", Size: int64(len(body)),
		Near: nearby{[]Place{{Source: &first, Name: "one", Wrong: func() {}}, {Source: &next, Name: "two", Wrong: func() {}}}},
	}
	f, began, err := s.Join(want, false, func() bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	o, err := f.Open(t.Context(), want, began)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var got sink
	if _, err := o.Send(t.Context(), &got, 0, o.Size); err != nil || !bytes.Equal(got.Bytes(), body) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	if asked != 3 {
		t.Errorf("the next box was asked %d times", asked)
	}
}

// failing is a transfer that breaks.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("broken") }

// TestStoreHasItsOwnSlots: transfers from boxes that wait take no connection from
// those to a store, for which these boxes may wait.
func TestStoreHasItsOwnSlots(t *testing.T) {
	s := newFills(t, func(o *Options) { o.MaxConnections, o.MaxPerHost = 1, 1 })
	release, err := s.nearSlots.acquire(t.Context(), "box")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	body := bytes.Repeat([]byte("from a store "), 10*kib)
	want := Want{
		Digest: digest.FromBytes(body), Source: refuses(), Host: "registry", Size: int64(len(body)),
		Near: nearby{[]Place{{Source: from(body, nil), Name: "store", Wrong: func() {}, Store: true}}},
	}
	f, began, err := s.Join(want, false, func() bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	o, err := f.Open(ctx, want, began)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var got sink
	if _, err := o.Send(ctx, &got, 0, o.Size); err != nil || !bytes.Equal(got.Bytes(), body) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}
