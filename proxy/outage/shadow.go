package outage

import (
	"context"
	"hash/maphash"
	"net/netip"
	"strings"
	"sync"
	"time"

	"hubcap/metrics"
)

const (
	// quietFor is for how long a client has asked a repository for nothing when
	// its pulls are over. A layer that takes longer does not belong to its pull.
	quietFor = 10 * time.Minute
	// samePull is how long after a tag was asked for the same client may ask for it
	// again within the same pull: dockerd asks twice, containerd by HEAD first.
	samePull = 10 * time.Second
	// sweepEvery is how often pulls that are over are counted.
	sweepEvery = time.Minute
	// maxVisits bounds the clients and repositories with pulls that are not over, in
	// one of the shards. Further ones are not counted.
	maxVisits = 512
	// maxPulls bounds the pulls of one visitor that are not over. Then the one that
	// began first counts as over.
	maxPulls = 64
)

// Answer is an answer to a client, about a manifest or blob that there is.
type Answer struct {
	Client               netip.Addr
	Registry, Repository string
	Tag                  string // empty where it was asked for by digest
	Manifest             bool
	Held                 bool // it was a hit, confirmed or stale; else it would have failed in an outage
}

// Drill counts which pulls of clients would have survived an outage. Its methods are
// safe for concurrent use.
type Drill struct {
	now    func() time.Time
	count  *metrics.Outage
	seed   maphash.Seed
	shards [64]shard
}

type shard struct {
	mu     sync.Mutex
	visits map[visitor]*visit
}

// visitor is a client at a repository.
type visitor struct {
	client               netip.Addr
	registry, repository string
}

// visit is the pulls of a visitor that are not over.
type visit struct {
	last  int64 // when something was asked for, seconds since 1970
	pulls []shadow
}

// shadow is a pull of one tag, or of digests.
type shadow struct {
	tag    string
	began  int64 // seconds since 1970
	failed bool
}

// NewDrill returns a Drill; Run counts.
func NewDrill(now func() time.Time, count *metrics.Outage) *Drill {
	d := &Drill{now: now, count: count, seed: maphash.MakeSeed()}
	for i := range d.shards {
		d.shards[i].visits = make(map[visitor]*visit)
	}
	return d
}

// Answered takes an answer. Which of several pulls of one repository a blob belongs
// to is not known: one that is missing fails them all.
func (d *Drill) Answered(a Answer) {
	at := d.now().Unix()
	s := &d.shards[maphash.String(d.seed, a.Repository)%uint64(len(d.shards))]
	s.mu.Lock()
	defer s.mu.Unlock()
	key := visitor{a.Client, a.Registry, a.Repository}
	v := s.visits[key]
	switch {
	case v == nil && (!a.Manifest || len(s.visits) >= maxVisits):
		return
	case v == nil:
		v = new(visit)
		s.visits[visitor{a.Client, strings.Clone(a.Registry), strings.Clone(a.Repository)}] = v
	}
	v.last = at
	if a.Manifest && (a.Tag != "" || len(v.pulls) == 0) {
		d.begin(v, a, at)
		return
	}
	for i := range v.pulls {
		v.pulls[i].failed = v.pulls[i].failed || !a.Held
	}
}

// begin notes that a manifest was asked for, which begins a pull unless it belongs
// to one.
func (d *Drill) begin(v *visit, a Answer, at int64) {
	for i := range v.pulls {
		p := &v.pulls[i]
		if p.tag != a.Tag {
			continue
		}
		if at-p.began >= int64(samePull/time.Second) || at < p.began {
			d.count.Pull(!p.failed)
			p.began, p.failed = at, false
		}
		p.failed = p.failed || !a.Held
		return
	}
	if len(v.pulls) == maxPulls {
		d.count.Pull(!v.pulls[0].failed)
		v.pulls = v.pulls[1:]
	}
	v.pulls = append(v.pulls, shadow{strings.Clone(a.Tag), at, !a.Held})
}

// Run counts the pulls that are over until ctx ends, and then all.
func (d *Drill) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			d.sweep(true)
			return
		case <-tick.C:
			d.sweep(false)
		}
	}
}

// sweep counts the pulls that are over, or all.
func (d *Drill) sweep(all bool) {
	now := d.now().Unix()
	for i := range d.shards {
		s := &d.shards[i]
		s.mu.Lock()
		for key, v := range s.visits {
			if quiet := now - v.last; !all && quiet >= 0 && quiet < int64(quietFor/time.Second) {
				continue
			}
			for _, p := range v.pulls {
				d.count.Pull(!p.failed)
			}
			delete(s.visits, key)
		}
		s.mu.Unlock()
	}
}
