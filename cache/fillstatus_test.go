//go:build linux

package cache

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func (r *rig) fillOf(d digest.Digest) (status FillStatus, running bool) {
	for _, one := range r.Fills() {
		if one.Digest == d {
			return one, true
		}
	}
	return FillStatus{}, false
}

// TestFills follows one fill from its beginning to its end.
func TestFills(t *testing.T) {
	const size = 4 * mib
	r := newRig(t, rigOptions{change: func(o *Options) { o.Connections = 1 }})
	body, d := randomContent(331, size)
	half, rest := make(chan struct{}), make(chan struct{})
	src := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) {
		<-half
		return io.MultiReader(io.LimitReader(in, size/2), gate{in, rest}), nil
	}}
	want := Want{Digest: d, Source: src, Size: size, Host: home, Restricted: true, Granted: true, Repository: home + "/one"}
	first, second := r.openAside(want), r.openAside(want)
	state := func(what string, is func(FillStatus) bool) {
		t.Helper()
		eventually(t, what, func() bool { status, running := r.fillOf(d); return running && is(status) })
	}
	state("the source is asked for two clients", func(s FillStatus) bool { return s.State == "asking" && s.Readers == 2 })
	close(half)
	state("half of it is there", func(s FillStatus) bool {
		return s.State == "filling" && s.Present == size/2 && s.Size == size && s.Writers == 1 && s.Rate > 0 &&
			s.Host == home && s.Repository == home+"/one" && !s.Since.IsZero()
	})
	left := <-first
	if left.err != nil {
		t.Fatal(left.err)
	}
	left.b.Close()
	state("one client has left", func(s FillStatus) bool { return s.Readers == 1 })
	close(rest)
	r.mustSend(<-second, body)
	r.settle()
	if all := r.Fills(); len(all) != 0 {
		t.Errorf("%+v after the end", all)
	}
}

// TestFillOfAPlace: a fill says from which place its first bytes come.
func TestFillOfAPlace(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(333, mib)
	rest := make(chan struct{})
	src := &origin{body: body, script: func(_, _ int64, in io.Reader) (io.Reader, error) {
		return io.MultiReader(io.LimitReader(in, mib/2), gate{in, rest}), nil
	}}
	got := <-r.openAside(Want{Digest: d, Source: refuses(), Size: mib, Host: home, Near: shelf{src}})
	if status, running := r.fillOf(d); !running || status.Place != "s3" || status.Host != home || got.b.Place != "s3" {
		t.Errorf("%+v", status)
	}
	close(rest)
	r.mustSend(got, body)
}

// TestParked shows that a fill that has failed half-way is listed until it is
// continued, also after a restart, and with a note that cannot be read.
func TestParked(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, rigOptions{dir: dir})
	body, d := randomContent(332, partialSize)
	pull(t, r, Want{Digest: digest.FromString("held"), Source: &origin{body: []byte("held")}, Size: 4}, []byte("held"))
	given := r.leave(d, body)
	parked := func(size, present int64) {
		t.Helper()
		all := slices.Collect(r.Parked())
		if len(all) != 1 || all[0].Digest != d || all[0].State != "parked" || all[0].Size != size || all[0].Present != present ||
			time.Since(all[0].Since) > time.Minute {
			t.Errorf("%+v; want one of %d bytes with %d of them present", all, size, present)
		}
	}
	parked(partialSize, given)
	r.stop()
	r = newRig(t, rigOptions{dir: dir})
	parked(partialSize, given)
	note := filepath.Join(dir, "partial", "sha256-"+d.Encoded()+".note")
	saved, err := os.ReadFile(note)
	if err = cmp.Or(err, os.WriteFile(note, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	parked(-1, 0)
	if err := os.WriteFile(note, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.get(d, &origin{body: body}, 0, -1); err != nil {
		t.Fatal(err)
	}
	r.settle()
	if all := slices.Collect(r.Parked()); len(all) != 0 {
		t.Errorf("%+v after the blob was stored", all)
	}
}

// TestFillsUnderLoad lists the fills again and again while many run, are read,
// fail and are left. Run with -race.
func TestFillsUnderLoad(t *testing.T) {
	r := newRig(t, rigOptions{limit: 64 * mib})
	ctx, stop := context.WithCancel(t.Context())
	var lookers, clients sync.WaitGroup
	for range 2 {
		lookers.Go(func() {
			for ctx.Err() == nil {
				for _, s := range r.Fills() {
					if !slices.Contains([]string{"waiting", "asking", "filling", "committing", "stopping"}, s.State) || s.Present < 0 || s.Size >= 0 && s.Present > s.Size ||
						s.Rate < 0 || s.Readers < 0 || s.Readers > 12 || s.Writers < 0 || s.Writers > 4+maxUrgent {
						t.Errorf("%+v", s)
					}
				}
				for s := range r.Parked() {
					if s.Size >= 0 && s.Present > s.Size {
						t.Errorf("%+v", s)
					}
				}
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	for i := range 12 {
		clients.Go(func() {
			for n := range 12 {
				kind := (i + n) % 4
				body, d := randomContent(uint64(340+n), []int{1, 300 * kib, 9 * mib, mib}[kind])
				src := &origin{body: body, unsized: kind == 1}
				if kind == 3 {
					src.body = body[:len(body)-1] // wrong
				}
				b, err := r.Open(t.Context(), Want{Digest: d, Source: src, Size: -1, Off: int64(len(body) / 2)})
				if err != nil {
					continue
				}
				var c client
				c.Grow(len(body)/2 + 1 + bytes.MinRead)
				_ = b.Send(t.Context(), &c, int64(len(body)/2), -1)
				b.Close()
			}
		})
	}
	clients.Wait()
	stop()
	lookers.Wait()
	r.checkLedger()
}
