package freshness

import (
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
)

// Outlook is what a tag would be answered with if its upstream failed from now on.
type Outlook struct {
	Digest   digest.Digest // held or not
	Since    time.Time     // since when this box has seen the tag name that
	State    TagState
	FreshFor time.Duration // until its upstream is asked again; negative for never
	// Allowed is false where the time for which stale content is served does not
	// permit the answer once the upstream would be asked.
	Allowed bool
}

// Outlook returns what a tag would be answered with. It asks no upstream, and is no
// use of what is held.
func (r *Resolver) Outlook(repo Repository, tag string) (o Outlook, known bool) {
	one, known := r.tags.get(repo.tag(tag))
	if !known {
		return Outlook{}, false
	}
	rule := r.rule(repo, tag)
	o = Outlook{Digest: one.Digest, Since: one.FirstSeen, State: r.stateOf(one), FreshFor: -1, Allowed: true}
	if !r.frozen(one) && (one.Frozen != nil || !rule.Immutable) {
		o.Allowed, o.FreshFor = r.mayBeStale(repo, one), 0
		if r.fresh(repo, tag, one) {
			o.FreshFor = rule.TTL - r.o.Now().Sub(one.Asked())
		}
	}
	return o, true
}

// EarlierDigests iterates over the digests of a tag that clients were given before,
// held or not, the latest first. There are none while it is frozen.
func (r *Resolver) EarlierDigests(repo Repository, tag string) iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		if tag == "" {
			return
		}
		known, _ := r.tags.get(repo.tag(tag))
		for _, one := range known.Earlier {
			if !one.Unserved && !r.frozen(known) && !yield(one.Digest) {
				return
			}
		}
	}
}
