package prefetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/metrics"
)

// store notes what it is asked to fetch.
type store struct {
	fetch func(d digest.Digest) (int64, error) // nil brings everything

	mu      sync.Mutex
	fetched []digest.Digest
}

func (s *store) Fetch(_ context.Context, w cache.Want) (int64, error) {
	s.mu.Lock()
	s.fetched = append(s.fetched, w.Digest)
	s.mu.Unlock()
	if s.fetch == nil {
		return 1, nil
	}
	return s.fetch(w.Digest)
}

// taken returns what was fetched since the last call, sorted.
func (s *store) taken() []digest.Digest {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.fetched
	s.fetched = nil
	slices.Sort(all)
	return all
}

func named(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }

func wants(ids ...int) func() (layers, others []cache.Want) {
	return func() (all, _ []cache.Want) {
		for _, i := range ids {
			all = append(all, cache.Want{Digest: named(i), Size: -1})
		}
		return all, nil
	}
}

func digests(ids ...int) (all []digest.Digest) {
	for _, i := range ids {
		all = append(all, named(i))
	}
	slices.Sort(all)
	return all
}

// running calls f with a prefetcher at work, on a clock of the test's own.
func running(t *testing.T, s *store, f func(t *testing.T, p *Prefetcher, m *metrics.Metrics)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New()
		p := New(Options{Store: s, AtATime: 2, Now: time.Now, Metrics: m.Prefetch, Log: slog.New(slog.DiscardHandler)})
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { p.Run(ctx) })
		f(t, p, m)
		stop()
		all.Wait()
	})
}

func TestFirstBlobBringsTheOthers(t *testing.T) {
	s := new(store)
	running(t, s, func(t *testing.T, p *Prefetcher, _ *metrics.Metrics) {
		p.Manifest("hub/a", named(100), wants(1, 2, 3))
		p.Manifest("hub/b", named(101), wants(4, 5))
		if got := s.taken(); len(got) != 0 {
			t.Errorf("a manifest alone brings %v", got)
		}
		p.Blob("hub/a", named(2))
		if got := s.taken(); !slices.Equal(got, digests(1, 3)) {
			t.Errorf("brought %v, want 1 and 3", got)
		}
		p.Blob("hub/a", named(3))
		p.Blob("hub/a", named(4)) // another repository's
		p.Blob("hub/c", named(1))
		if got := s.taken(); len(got) != 0 {
			t.Errorf("brought %v again", got)
		}
		p.Manifest("hub/a", named(100), func() (_, _ []cache.Want) { t.Error("read twice"); return nil, nil })
		p.Blob("hub/a", named(1))
		if got := s.taken(); !slices.Equal(got, digests(2, 3)) {
			t.Errorf("at the next pull brought %v, want 2 and 3, which may have gone since", got)
		}
	})
}

func TestFailureEndsAnImage(t *testing.T) {
	s := &store{fetch: func(digest.Digest) (int64, error) { return -1, errors.New("429") }}
	running(t, s, func(t *testing.T, p *Prefetcher, m *metrics.Metrics) {
		p.Manifest("hub/a", named(100), wants(1, 2, 3, 4, 5, 6, 7, 8))
		p.Blob("hub/a", named(1))
		if got := s.taken(); len(got) > 2 { // those that are fetched at a time
			t.Errorf("%d blobs asked for after a failure", len(got))
		}
		if v, _ := m.Value("hubcap_prefetch_blobs_total"); v != 0 {
			t.Errorf("%v counted", v)
		}
	})
}

func TestWasteIsCounted(t *testing.T) {
	lengths := map[digest.Digest]int64{named(2): 2000, named(3): 3000, named(4): -1}
	s := &store{fetch: func(d digest.Digest) (int64, error) { return lengths[d], nil }}
	running(t, s, func(t *testing.T, p *Prefetcher, m *metrics.Metrics) {
		p.Manifest("hub/a", named(100), wants(1, 2, 3, 4))
		p.Blob("hub/a", named(1))
		s.taken()
		time.Sleep(9 * time.Minute)
		p.Blob("hub/a", named(2))
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		for name, want := range map[string]float64{
			"hubcap_prefetch_blobs_total":        2,
			"hubcap_prefetch_bytes_total":        5000,
			"hubcap_prefetch_wasted_bytes_total": 3000,
		} {
			if v, _ := m.Value(name); v != want {
				t.Errorf("%s = %v, want %v", name, v, want)
			}
		}
	})
}

func TestNoneDoesNothing(t *testing.T) {
	var p *Prefetcher
	p.Manifest("hub/a", named(100), func() (_, _ []cache.Want) { t.Error("read"); return nil, nil })
	p.Blob("hub/a", named(1))
}

// TestConfigBeginsNothing: a client that looks at an image by its config does
// not pull it.
func TestConfigBeginsNothing(t *testing.T) {
	s := &store{}
	running(t, s, func(t *testing.T, p *Prefetcher, _ *metrics.Metrics) {
		p.Manifest("hub/a", named(100), func() (layers, others []cache.Want) {
			layers, _ = wants(1, 2)()
			others, _ = wants(3)()
			return layers, others
		})
		p.Blob("hub/a", named(3))
		if got := s.taken(); len(got) != 0 {
			t.Errorf("brought %v", got)
		}
		p.Blob("hub/a", named(1))
		if got := s.taken(); !slices.Equal(got, digests(2, 3)) {
			t.Errorf("brought %v, want the other layer and the config", got)
		}
	})
}

// TestAtATime: of large blobs, and of those whose size is not known, only some are
// fetched at a time; of small ones more, by their bytes.
func TestAtATime(t *testing.T) {
	for _, tc := range []struct {
		size int64
		want int
	}{{-1, 2}, {large + 1, 2}, {large / 2, 4}, {0, 32}} {
		gate := make(chan struct{})
		s := &store{fetch: func(digest.Digest) (int64, error) { <-gate; return 1, nil }}
		running(t, s, func(t *testing.T, p *Prefetcher, _ *metrics.Metrics) {
			gate = make(chan struct{})
			p.Manifest("hub/a", named(100), func() (all, _ []cache.Want) {
				for i := range 100 {
					all = append(all, cache.Want{Digest: named(i), Size: tc.size})
				}
				return all, nil
			})
			p.Blob("hub/a", named(0))
			if got := len(s.taken()); got != tc.want {
				t.Errorf("%d blobs of %d bytes at a time, want %d", got, tc.size, tc.want)
			}
			close(gate)
			if got := len(s.taken()); got != 99-tc.want {
				t.Errorf("%d blobs afterwards, want %d", got, 99-tc.want)
			}
		})
	}
}
