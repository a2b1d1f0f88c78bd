package site

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// lookEvery is how often the boxes are looked at.
const lookEvery = time.Minute

// lookWithin is how long looking at one may take.
const lookWithin = 3 * time.Second

// seen is what a box was found to be, the last time that it answered a look. The zero
// value is of one that never did.
type seen struct {
	id    string // as it says; empty for what is no hubcap, or one that knows of no others
	list  string // identifies the boxes that it lists
	alien bool   // it answers as no hubcap does
}

// Run looks at the boxes until ctx ends: at their addresses, whether they answer, and
// what they say of themselves.
func (s *Site) Run(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		s.resolve(ctx)
		s.Look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// resolve looks up the addresses of the other boxes. Those of a name that cannot be
// looked up now are forgotten.
func (s *Site) resolve(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	all := make(map[netip.Addr]bool)
	for _, b := range s.boxes {
		if b.self {
			continue
		}
		found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip", b.url.Hostname())
		for _, a := range found {
			all[a.Unmap()] = true
		}
	}
	s.addresses.Store(&all)
}

// Look looks at all other boxes at once.
func (s *Site) Look(ctx context.Context) {
	var looking sync.WaitGroup
	for _, b := range append(s.boxes[:len(s.boxes):len(s.boxes)], s.sisters...) {
		if !b.self {
			looking.Go(func() { s.lookAt(ctx, b) })
		}
	}
	looking.Wait()
}

// lookAt asks a box for nothing but an answer. One that gives none is noted, and still
// asked for content: it may just be starting.
func (s *Site) lookAt(ctx context.Context, b *box) {
	within, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	found, err := s.meet(within, b)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		if s.failed(b, 0, err) {
			s.o.Log.Warn("another box does not answer as it should", "box", b.name, "err", err)
		}
		return
	}
	b.mu.Lock()
	b.seen = found
	resting := s.o.Now().Before(b.until)
	b.mu.Unlock()
	if !resting { // else it failed at what matters more
		s.answered(b)
	}
}

// meet asks a box who it is.
func (s *Site) meet(ctx context.Context, b *box) (seen, error) {
	status, header, err := s.greet(ctx, b, "v2/")
	switch {
	case err != nil:
		return seen{}, plain(err)
	case status == http.StatusForbidden:
		err = errors.New("it answers 403 Forbidden: its HUBCAP_ALLOW_CLIENTS does not have this box")
	case status != http.StatusOK:
		err = fmt.Errorf("it answers %d %s to GET /v2/", status, http.StatusText(status))
	}
	id, list := saidOf(header)
	return seen{id: id, list: list, alien: id == ""}, err
}

// plain is an error of a request without its address, which is known.
func plain(err error) error {
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}
