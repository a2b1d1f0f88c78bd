package freshness

import (
	"cmp"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/proxy/reference"
)

// ErrUnknownTag says that a tag was never pulled here, or was forgotten since.
var ErrUnknownTag = errors.New("this tag was not pulled here")

// Line is one digest in the history of a tag.
type Line struct {
	Digest        digest.Digest `json:"digest"`
	FirstSeen     time.Time     `json:"first_seen"`     // when this box first saw that the tag names it
	LastConfirmed time.Time     `json:"last_confirmed"` // when the registry last said so
	Via           index.Via     `json:"via"`
	Served        bool          `json:"served"`   // clients are given it by the tag, or were
	Current       bool          `json:"current"`  // clients are given it by the tag now
	Registry      bool          `json:"registry"` // the registry named it when it was last asked
}

// TagStatus is what a tag means now.
type TagStatus struct {
	Name   index.Name    `json:"-"`
	Ref    string        `json:"ref"` // docker.io/library/nginx:1.27
	Shared bool          `json:"shared"`
	Digest digest.Digest `json:"digest"` // what clients are given
	State  TagState      `json:"state"`
	Asked  time.Time     `json:"asked"`            // when the registry last named a digest
	Frozen *Freeze       `json:"frozen,omitempty"` // of a frozen tag
	Moved  *Moved        `json:"moved,omitempty"`  // where the registry names another digest
}

// Freeze is what an operator has set for a frozen tag.
type Freeze struct {
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until,omitzero"` // zero: until it is thawed
	Note    string    `json:"note,omitempty"`
	By      string    `json:"by,omitempty"`
	Deleted time.Time `json:"deleted,omitzero"` // when the registry was first found to have deleted the tag
}

// Moved is a digest that the registry names and clients are not given.
type Moved struct {
	Digest        digest.Digest `json:"digest"`
	Since         time.Time     `json:"since"`          // when this box first saw it
	LastConfirmed time.Time     `json:"last_confirmed"` // when the registry last said so
	// Until is the end of the cool-down: the first check after it takes the digest
	// over. Zero for a frozen tag.
	Until time.Time `json:"until,omitzero"`
}

// History returns the digests that a tag has named, the latest first, at most
// index.MaxEarlier and two, and what it means now. The error is ErrUnknownTag or
// ErrPassthrough.
func (r *Resolver) History(repo Repository, tag string) ([]Line, TagStatus, error) {
	known, err := r.ordered(repo, tag)
	if err != nil {
		return nil, TagStatus{}, err
	}
	c := known.Candidate
	all := []Line{{known.Digest, known.FirstSeen, known.Confirmed, known.Via, true, true, c == nil}}
	if c != nil {
		all = append(all, Line{c.Digest, c.FirstSeen, c.Confirmed, c.Via, c.Served, false, true})
	}
	for _, one := range known.Earlier {
		all = append(all, Line{one.Digest, time.Unix(one.FirstSeen, 0).UTC(), time.Unix(one.Confirmed, 0).UTC(), one.Via, !one.Unserved, false, false})
	}
	slices.SortStableFunc(all, func(a, b Line) int { return b.FirstSeen.Compare(a.FirstSeen) })
	return all, r.tagStatus(repo.tag(tag), known), nil
}

func (r *Resolver) tagStatus(name index.Name, known index.Tag) TagStatus {
	s := TagStatus{
		Name: name, Shared: name.Restricted, Digest: known.Digest, State: r.stateOf(known), Asked: known.Asked(),
		Ref: reference.Reference{Registry: name.Registry, Repository: name.Repository, Tag: name.Name}.String(),
	}
	if known.Digest == "" {
		s.State = Forgotten
	}
	if s.State == Frozen {
		f := known.Frozen
		s.Frozen = &Freeze{f.Since, f.Until, f.Note, f.By, f.Deleted}
	}
	if c := known.Candidate; c != nil {
		s.Moved = &Moved{Digest: c.Digest, Since: c.FirstSeen, LastConfirmed: c.Confirmed}
		if s.State == Cooling {
			s.Moved.Until = c.FirstSeen.Add(r.cooldown(name.Registry, name.Repository, name.Name))
		}
	}
	return s
}

// Kept returns the tags that do not follow their registry now, frozen or cooling,
// by name. It waits until the index has been read, at the start.
func (r *Resolver) Kept() []TagStatus {
	<-r.tags.counted
	all := []TagStatus{}
	for name, known := range r.tags.allKept() {
		if r.stateOf(known) != Following {
			all = append(all, r.tagStatus(name, known))
		}
	}
	slices.SortFunc(all, func(a, b TagStatus) int {
		return cmp.Or(strings.Compare(a.Ref, b.Ref), strings.Compare(a.Name.String(), b.Name.String()))
	})
	return all
}

// Frozen iterates over the frozen tags and their digests, in no order. It waits
// until the index has been read, at the start.
func (r *Resolver) Frozen() iter.Seq2[index.Name, digest.Digest] {
	return func(yield func(index.Name, digest.Digest) bool) {
		<-r.tags.counted
		for name, known := range r.tags.allKept() {
			if r.frozen(known) && !yield(name, known.Digest) {
				return
			}
		}
	}
}

// allKept returns the tags that are frozen or have a candidate.
func (t *tags) allKept() map[index.Name]index.Tag {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.kept)
}

// TagCounts is how many tags are known, by state.
type TagCounts struct{ Following, Frozen, Cooling int }

// Counts returns how many tags are known. At the start, before the index has been
// read, it counts what was asked for since.
func (r *Resolver) Counts() (n TagCounts) {
	for _, known := range r.tags.allKept() {
		switch r.stateOf(known) {
		case Frozen:
			n.Frozen++
		case Cooling:
			n.Cooling++
		}
	}
	r.tags.mu.Lock()
	defer r.tags.mu.Unlock()
	n.Following = max(r.tags.known-n.Frozen-n.Cooling, 0)
	return n
}
