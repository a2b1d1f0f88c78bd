//go:build linux

package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
)

// wrongOnce is a source whose first transfer has one wrong byte. Later transfers
// are right.
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

// TestWrongBeginningThenNotKept shows that a reader that got a wrong beginning does
// not get the right end: the first transfer is wrong and does not fit the cache,
// the second one is right.
func TestWrongBeginningThenNotKept(t *testing.T) {
	r := newRig(t, rigOptions{maxBlob: mib})
	body, d := randomContent(200, 2*mib)
	got, _, err := r.get(d, wrongOnce(body, 0, true), 0, -1)
	if err == nil && !bytes.Equal(got, body) {
		t.Errorf("%d wrong bytes, and the answer completed", len(got))
	}
	r.checkLedger()
}

// TestWrongBeginningThenReaderFileFails has the file of one reader fail while a
// fill with a wrong beginning runs.
func TestWrongBeginningThenReaderFileFails(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(201, 2*mib)
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
	file := *unexported[*os.File](t, b.body, "file")
	c := &breakAt{at: mib / 2, do: func() { file.Close(); close(open) }}
	err = b.Send(t.Context(), c, 0, b.Size)
	if err == nil && !bytes.Equal(c.Bytes(), body) {
		t.Errorf("%d wrong bytes, and the answer completed", c.Len())
	}
}

// TestRangeAfterAWrongBeginning has a client get a wrong beginning and request the
// rest after the right blob was stored for another client.
func TestRangeAfterAWrongBeginning(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(233, mib)
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

// breakAt is a client that calls a function once it has a number of bytes.
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

// ReadFrom sends the bytes through Write.
func (b *breakAt) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{b}, r)
}

// TestSourceThatAlwaysEndsEarly has a source end each body early, without an error.
func TestSourceThatAlwaysEndsEarly(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the whole of the backoff")
	}
	body, d := randomContent(237, 2*mib)
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

// TestSourceThatSaysTooMuch has a source give a size above the blob's.
func TestSourceThatSaysTooMuch(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes the whole of the backoff")
	}
	r := newRig(t, rigOptions{})
	body, d := randomContent(238, mib)
	src := sourceFunc(func(_ context.Context, off, _ int64) (*Stream, error) {
		return &Stream{Body: io.NopCloser(bytes.NewReader(body[off:])), Off: off, Size: mib + 100}, nil
	})
	got, _, err := r.get(d, &src, 0, mib+100)
	if err == nil && len(got) != mib+100 {
		t.Errorf("%d bytes of %d, and no error", len(got), mib+100)
	}
	r.checkLedger()
}

// TestNoRangesAndManyBreaks has a source without ranges give a little more before
// each break.
func TestNoRangesAndManyBreaks(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	r := newRig(t, rigOptions{})
	body, d := randomContent(236, mib)
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
