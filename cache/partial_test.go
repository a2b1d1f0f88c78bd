package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hubcap/e2e/testkit"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
)

const partialSize = 12 * mib

// meter is an origin that counts what it gives, and ends with an error once
// it has given most bytes of the blob, if most is set.
type meter struct {
	origin
	given atomic.Int64
}

func newMeter(body []byte, most int64, err error) *meter {
	m := &meter{origin: origin{body: body}}
	m.script = func(_, _ int64, in io.Reader) (io.Reader, error) {
		return readerFunc(func(p []byte) (int, error) {
			if most > 0 && m.given.Load() >= most {
				return 0, err
			}
			n, err := in.Read(p)
			m.given.Add(int64(n))
			return n, err
		}), nil
	}
	return m
}

// leave fetches a blob whose source fails permanently after half of it.
func (r *rig) leave(d digest.Digest, body []byte) (given int64) {
	r.t.Helper()
	src := newMeter(body, partialSize/2, permanent{io.ErrUnexpectedEOF})
	if _, _, err := r.get(d, src, 0, -1); err == nil {
		r.t.Fatal("the first fill did not fail")
	}
	r.settle()
	return src.given.Load()
}

func TestPartialContinues(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name        string
		connections int
		restart     bool
		off         int64 // what the second reader asks for
	}{
		{name: "after a failure of the source", connections: 4},
		{name: "after a restart", connections: 4, restart: true},
		{name: "by a reader in the middle", connections: 4, restart: true, off: partialSize / 2},
		{name: "by a reader of the last byte", connections: 4, off: partialSize - 1},
		{name: "over one connection", connections: 1, restart: true},
		{name: "over one connection, in the middle", connections: 1, off: partialSize / 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			o := rigOptions{dir: dir, change: func(o *Options) { o.Connections = tc.connections }}
			r := newRig(t, o)
			body, d := randomContent(301, partialSize)
			given := r.leave(d, body)
			r.checkLedger()
			if kept := r.o.Ledger.Status().Partial; kept != partialSize {
				t.Fatalf("the ledger has %d bytes of partials, want %d", kept, partialSize)
			}
			if tc.restart {
				r.stop()
				r = newRig(t, o)
				r.checkLedger()
			}
			src := newMeter(body, 0, nil)
			got, _, err := r.get(d, src, tc.off, -1)
			if err != nil || !bytes.Equal(got, body[tc.off:]) {
				t.Fatalf("got %d bytes, %v", len(got), err)
			}
			// Bytes that came after the fill had ended were not written.
			if again := given + src.given.Load() - partialSize; again > int64(tc.connections+maxUrgent)*buffer {
				t.Errorf("%d bytes came twice: %d first, %d then", again, given, src.given.Load())
			}
			r.checkLedger()
			if !r.o.Ledger.Holds(d) || r.o.Ledger.Status().Partial != 0 {
				t.Error("it is not held now")
			}
		})
	}
}

// TestPartialAfterACrash copies a data directory in the middle of a fill: that
// is what a killed process leaves.
func TestPartialAfterACrash(t *testing.T) {
	body, d := randomContent(302, partialSize)
	crashed := t.TempDir()
	r := newRig(t, rigOptions{})
	open := make(chan struct{})
	release := sync.OnceFunc(func() { close(open) })
	t.Cleanup(release) // or the fill would not end with a test that has failed
	src := newMeter(body, 0, nil)
	script := src.script
	src.script = func(n, off int64, in io.Reader) (io.Reader, error) {
		in, _ = script(n, off, in)
		in = io.MultiReader(io.LimitReader(in, partialSize-1-off), gate{in, open}) // the last byte waits
		return in, nil
	}
	b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	eventually(t, "all but the last byte is saved", func() bool {
		note, err := os.ReadFile(filepath.Join(r.dir, "partial", "sha256-"+d.Encoded()+".note"))
		_, have, ok := decodeNote(note, partialSize)
		return err == nil && ok && have.bytes() == partialSize-1
	})
	if err := testkit.CopyDir(crashed, r.dir); err != nil {
		t.Fatal(err)
	}
	release()

	r = newRig(t, rigOptions{dir: crashed})
	r.checkLedger()
	src = newMeter(body, 0, nil)
	r.mustGet(d, src, body)
	if n := src.given.Load(); n != 1 {
		t.Errorf("%d bytes came again, want 1", n)
	}
	r.checkLedger()
}

func TestPartialIsEvictedInItsTurn(t *testing.T) {
	r := newRig(t, rigOptions{limit: 64 * mib})
	body, d := randomContent(303, partialSize)
	r.leave(d, body)
	for seed := range uint64(12) {
		other, d := randomContent(310+seed, 6*mib)
		r.mustGet(d, &origin{body: other}, other)
	}
	r.checkLedger()
	if n := r.o.Ledger.Status().Partial; n != 0 {
		t.Errorf("a partial of %d bytes is there after 72 MiB came into a cache of 64", n)
	}
	r.mustGet(d, &origin{body: body}, body)
	r.checkLedger()
}

// TestPartialThatDoesNotFit requests blobs whose partial fill cannot be continued: the
// answer is right all the same.
func TestPartialThatDoesNotFit(t *testing.T) {
	t.Parallel()
	body, d := randomContent(304, partialSize)
	file := "sha256-" + d.Encoded()
	for i, tc := range []struct {
		name   string
		damage func(dir string) error
		source func() Source
		fails  bool // the first answer, short of its end
	}{
		{name: "the source does not support ranges any more", source: func() Source { return &origin{body: body, noRange: true} }},
		{name: "the note is garbage", damage: func(dir string) error {
			return os.WriteFile(filepath.Join(dir, file+".note"), []byte("garbage"), 0o600)
		}},
		{name: "the note is gone", damage: func(dir string) error { return os.Remove(filepath.Join(dir, file+".note")) }},
		{name: "the note names bytes that are not there", damage: func(dir string) error {
			return os.Truncate(filepath.Join(dir, file), mib)
		}},
		{name: "the file is gone", damage: func(dir string) error { return os.Remove(filepath.Join(dir, file)) }},
		{name: "a directory is in its place", damage: func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, file)), os.Mkdir(filepath.Join(dir, file), 0o700))
		}},
		{name: "its bytes have changed", fails: true, damage: func(dir string) error {
			note, err := os.ReadFile(filepath.Join(dir, file+".note"))
			if err != nil {
				return err
			}
			_, have, _ := decodeNote(note, partialSize)
			f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("wrong"), have[0].off)
			return errors.Join(err, f.Close())
		}},
	} {
		for _, restart := range []bool{false, true} {
			if testing.Short() && restart != (i%2 == 0) {
				continue
			}
			t.Run(fmt.Sprintf("%s, restart %v", tc.name, restart), func(t *testing.T) {
				dir := t.TempDir()
				r := newRig(t, rigOptions{dir: dir})
				r.leave(d, body)
				if restart {
					r.stop()
				}
				if tc.damage != nil {
					if err := tc.damage(filepath.Join(dir, "partial")); err != nil {
						t.Fatal(err)
					}
				}
				if restart {
					r = newRig(t, rigOptions{dir: dir})
				}
				var src Source = &origin{body: body}
				if tc.source != nil {
					src = tc.source()
				}
				if tc.fails {
					var c client
					b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1})
					if err == nil {
						err = b.Send(t.Context(), &c, 0, -1)
						b.Close()
					}
					if err == nil || c.Len() == partialSize {
						t.Errorf("%d bytes, %v", c.Len(), err)
					}
					r.settle()
				}
				r.mustGet(d, src, body)
				r.checkLedger()
			})
		}
	}
}

func TestWholePartialNeedsNoSource(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body, d := randomContent(305, partialSize)
	r.leave(d, body)
	r.stop()
	file := filepath.Join(dir, "partial", "sha256-"+d.Encoded())
	if err := errors.Join(
		os.WriteFile(file, body, 0o600),
		os.WriteFile(file+".note", encodeNote(partialSize, spans{{0, partialSize}}, ""), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, rigOptions{dir: dir})
	src := newMeter(body, 0, nil)
	r.mustGet(d, src, body)
	if n := src.opens.Load(); n != 0 {
		t.Errorf("the source was asked %d times", n)
	}
	r.checkLedger()
}

// TestPartialOutlivesAFailureToAsk shows that a partial fill stays when the source does
// not answer.
func TestPartialOutlivesAFailureToAsk(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(306, partialSize)
	r.leave(d, body)
	down := &origin{body: body, script: func(int64, int64, io.Reader) (io.Reader, error) { return nil, notFound{} }}
	if _, err := r.Open(context.Background(), Want{Digest: d, Source: down, Size: -1}); err == nil {
		t.Fatal("opened")
	}
	r.checkLedger()
	src := newMeter(body, 0, nil)
	r.mustGet(d, src, body)
	if n := src.given.Load(); n > partialSize/2+4*buffer {
		t.Errorf("%d bytes came again", n)
	}
	r.checkLedger()
}

// TestPartialThenNoSize continues with a source that supports ranges and gives no size:
// the fill begins at 0 again.
func TestPartialThenNoSize(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(309, partialSize)
	r.leave(d, body)
	r.mustGet(d, &origin{body: body, unsized: true}, body)
	r.checkLedger()
}
