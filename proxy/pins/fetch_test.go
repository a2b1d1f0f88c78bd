package pins

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/e2e/testkit"
	"hubcap/proxy/warm"
)

// TestLostPartsComeBack: what is lost is fetched again at once, by digest, and as
// long as its manifest is missing, what that names stays pinned.
func TestLostPartsComeBack(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("nginx", 10, 20)
	d := r.pushIndex(map[string]image{warm.DefaultPlatform(): i})
	r.hub[nginx] = d
	r.mustPin(nginx)
	r.fetchDue()
	for n, lost := range append(i.all(), d) {
		r.clock.Advance(2 * time.Hour)
		r.look()
		r.lose(lost)
		r.down = true
		r.look()
		r.fetchDue()
		r.press()
		if s := r.status(nginx); s.State != Missing || s.Missing != 1 || s.Why != errDown.Error() || !s.Since.Equal(r.clock.Now()) {
			t.Errorf("part %d: %+v", n, s)
		}
		for _, other := range append(i.all(), d) {
			r.wantHeld(other != lost, fmt.Sprint("while part ", n, " is missing"), other)
		}
		r.down = false
		if asked := r.fetchDue(); len(asked) != 0 {
			t.Errorf("part %d was asked for again without a pause: %v", n, asked)
		}
		r.clock.Advance(2 * time.Minute)
		for _, asked := range r.fetchDue() {
			if !strings.Contains(asked, "@sha256:") {
				t.Errorf("asked for %s", asked)
			}
		}
		r.wantHeld(true, fmt.Sprint("after part ", n), append(i.all(), d)...)
		if s := r.status(nginx); s.State != Held || s.Why != "" {
			t.Errorf("part %d: %+v", n, s)
		}
	}
	if n := strings.Count(r.log.String(), "parts of a pinned image are missing"); n != 5 {
		t.Errorf("logged %d times", n)
	}
}

// TestPauses are twice as long from attempt to attempt, up to an hour, and a pin
// that loses parts again soon after begins where it was.
func TestPauses(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("nginx", 10)
	r.hub[nginx] = i.digest
	r.mustPin(nginx)
	r.down = true
	attempts := 0
	for range 24 * 60 {
		attempts += len(r.fetchDue())
		r.clock.Advance(time.Minute)
	}
	if attempts < 24 || attempts > 2*(6+24) {
		t.Errorf("%d requests in a day", attempts)
	}
	r.down = false
	r.clock.Advance(time.Hour)
	r.fetchDue()
	r.lose(i.layers[0])
	r.look()
	if asked := r.fetchDue(); len(asked) != 0 {
		t.Errorf("asked for %v at once", asked)
	}
	r.clock.Advance(time.Hour)
	r.fetchDue()
	r.clock.Advance(2 * time.Hour)
	r.look()
	r.lose(i.layers[0])
	r.look()
	if asked := r.fetchDue(); len(asked) == 0 {
		t.Error("it is not asked for at once, long after it was whole")
	}
}

// TestPullsAreBounded: manifests that are lost over and over, of many pins, cost few
// pulls an hour; their layers are not bounded that way.
func TestPullsAreBounded(t *testing.T) {
	r := newRig(t)
	var images []image
	for n := range 30 {
		i := r.pushImage(fmt.Sprint(n), 1)
		ref := fmt.Sprintf("docker.io/library/many:%d", n)
		r.hub[ref] = i.digest
		r.mustPin(ref)
		images = append(images, i)
	}
	r.fetchDue()
	r.clock.Advance(2 * time.Hour)
	r.look()
	for _, i := range images {
		r.lose(i.digest)
	}
	r.look()
	r.fetchDue()
	back := func() (n int) {
		for _, i := range images {
			if r.ledger.Holds(i.digest) {
				n++
			}
		}
		return n
	}
	if n := back(); n != pullsAnHour {
		t.Errorf("%d manifests were fetched at once", n)
	}
	for hour := 2; hour <= 3; hour++ {
		r.clock.Advance(59 * time.Minute)
		r.fetchDue()
		r.clock.Advance(time.Minute)
		r.fetchDue()
		if n := back(); n != hour*pullsAnHour {
			t.Errorf("%d manifests in hour %d", n, hour)
		}
	}
	for _, i := range images {
		r.lose(i.layers[0])
	}
	r.clock.Advance(2 * time.Hour)
	r.look()
	r.fetchDue()
	for _, i := range images {
		r.wantHeld(true, "layers", i.layers...)
	}
}

// TestRun has it all done in the background.
func TestRun(t *testing.T) {
	r := newRig(t)
	i := r.pushImage("nginx", 10)
	r.hub[nginx] = i.digest
	looked := make(chan struct{})
	ticks := make(chan time.Time)
	r.o.After = func(d time.Duration) <-chan time.Time {
		if d == r.o.Every {
			return ticks
		}
		return nil
	}
	r.o.Frozen = func() iter.Seq2[index.Name, digest.Digest] {
		select {
		case looked <- struct{}{}:
		default:
		}
		return maps.All(r.frozen)
	}
	r.mustPin(nginx) // before, since the fakes are not for concurrent use
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	<-looked
	for deadline := time.Now().Add(testkit.Patience); r.List()[0].State != Held; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", r.List())
		}
	}
	ticks <- r.clock.Now()
	<-looked
	cancel()
	<-done
}
