package index

import (
	"bytes"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// MaxEarlier is how many earlier digests of a tag are kept.
const MaxEarlier = 20

// Earlier is a digest that a tag named before. Its times are seconds since 1970.
type Earlier struct {
	Digest    digest.Digest `json:"digest"`
	FirstSeen int64         `json:"firstSeen"` // when this box first saw it
	Confirmed int64         `json:"confirmed"` // when the upstream last said so
	Via       Via           `json:"via,omitempty"`
	Unserved  bool          `json:"unserved,omitempty"` // it was a Candidate, and never what clients were given
}

// Frozen is what an operator has set for a tag that is frozen to one digest.
type Frozen struct {
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is thawed
	Note   string    `json:"note,omitempty"`
	By     string    `json:"by,omitempty"`
	Thawed bool      `json:"thawed,omitempty"` // it has ended, and the upstream has not been asked since
	// Deleted is when the upstream was first found to have deleted the tag; zero
	// if the last answer named a digest.
	Deleted time.Time `json:"deleted,omitzero"`
}

// Candidate is a digest that the upstream names and clients are not given.
type Candidate struct {
	Digest    digest.Digest `json:"digest"`
	FirstSeen time.Time     `json:"firstSeen"` // when this box first saw it, since the upstream has named it
	Confirmed time.Time     `json:"confirmed"` // when the upstream last said so
	Via       Via           `json:"via,omitempty"`
	Served    bool          `json:"served,omitempty"` // clients were given it before the tag was frozen to another
}

// Asked returns when the upstream last said what the tag names.
func (t *Tag) Asked() time.Time {
	if t.Candidate != nil {
		return t.Candidate.Confirmed
	}
	return t.Confirmed
}

// Moved returns a tag that names what to says now, with the history of t. A
// digest that t names already keeps its FirstSeen and Via, and a candidate its
// FirstSeen.
func (t Tag) Moved(to Tag) Tag {
	if t.Digest == "" {
		return to
	}
	to.Earlier = without(t.Earlier, to.Digest)
	switch c := t.Candidate; {
	case c == nil:
	case c.Digest == to.Digest:
		to.FirstSeen = c.FirstSeen
	default:
		to.Earlier = prepend(to.Earlier, c.line())
	}
	if t.Digest == to.Digest {
		to.FirstSeen, to.Via = t.FirstSeen, t.Via
		return to
	}
	to.Earlier = prepend(to.Earlier, t.line())
	return to
}

// Named returns the tag after the upstream has named d at the time at, where
// clients are given t.Digest all the same.
func (t Tag) Named(d digest.Digest, at time.Time, via Via) Tag {
	t.Failing = time.Time{}
	if t.Frozen != nil && !t.Frozen.Deleted.IsZero() {
		back := *t.Frozen
		back.Deleted = time.Time{}
		t.Frozen = &back
	}
	c := Candidate{Digest: d, FirstSeen: at, Confirmed: at, Via: via}
	switch {
	case t.Candidate == nil:
	case t.Candidate.Digest == d:
		// Where the clock was set meanwhile, the age stays; a negative one begins anew.
		c = *t.Candidate
		c.FirstSeen, c.Confirmed = at.Add(-max(at.Sub(c.FirstSeen), 0)), at
	default:
		t.Earlier = prepend(t.Earlier, t.Candidate.line())
	}
	if t.Digest == d {
		t.Confirmed, t.Candidate = at, nil
		return t
	}
	c.Served = c.Served || t.Served(d)
	t.Candidate, t.Earlier = &c, without(t.Earlier, d)
	return t
}

// Served reports whether clients were given d before, as far as the history goes.
func (t Tag) Served(d digest.Digest) bool {
	return t.Candidate != nil && t.Candidate.Served && t.Candidate.Digest == d ||
		slices.ContainsFunc(t.Earlier, func(one Earlier) bool { return one.Digest == d && !one.Unserved })
}

// FrozenTo returns the tag after an operator has frozen it to the digest of to,
// which keeps what the history says of it. What the upstream names is the
// candidate then.
func (t Tag) FrozenTo(to Tag, f Frozen) Tag {
	t.Failing, t.Frozen = time.Time{}, &f
	if t.Digest == to.Digest {
		return t
	}
	to.Frozen, to.Candidate, to.Earlier = &f, t.Candidate, t.Earlier
	if c := to.Candidate; c == nil {
		to.Candidate = &Candidate{Digest: t.Digest, FirstSeen: t.FirstSeen, Confirmed: t.Confirmed, Via: t.Via, Served: true}
	} else {
		to.Earlier = prepend(to.Earlier, t.line())
		if c.Digest == to.Digest {
			to.FirstSeen, to.Confirmed, to.Via, to.Candidate = c.FirstSeen, c.Confirmed, c.Via, nil
		}
	}
	if i := slices.IndexFunc(to.Earlier, func(one Earlier) bool { return one.Digest == to.Digest }); i >= 0 {
		one := to.Earlier[i]
		to.FirstSeen, to.Confirmed, to.Via = time.Unix(one.FirstSeen, 0), time.Unix(one.Confirmed, 0), one.Via
		to.Earlier = without(to.Earlier, to.Digest)
	}
	return to
}

// line returns the line of the history for what clients are given.
func (t Tag) line() Earlier {
	return Earlier{Digest: t.Digest, FirstSeen: t.FirstSeen.Unix(), Confirmed: t.Confirmed.Unix(), Via: t.Via}
}

func (c Candidate) line() Earlier {
	return Earlier{Digest: c.Digest, FirstSeen: c.FirstSeen.Unix(), Confirmed: c.Confirmed.Unix(), Via: c.Via, Unserved: !c.Served}
}

// prepend returns a history that begins with line. A digest that clients were
// given once remains one that was served.
func prepend(all []Earlier, line Earlier) []Earlier {
	longer := make([]Earlier, 0, min(len(all)+1, MaxEarlier))
	longer = append(longer, line)
	for _, one := range all {
		if one.Digest == line.Digest {
			longer[0].Unserved = longer[0].Unserved && one.Unserved
		} else if len(longer) < MaxEarlier {
			longer = append(longer, one)
		}
	}
	return longer
}

// without returns a history without d. all is not changed, as readers may have it.
func without(all []Earlier, d digest.Digest) []Earlier {
	if !slices.ContainsFunc(all, func(one Earlier) bool { return one.Digest == d }) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(one Earlier) bool { return one.Digest == d })
}

// Kept returns the tags that are frozen or have a candidate, and how many tags
// there are. It decodes no others: with a history, 100,000 tags are 250 MB.
func (x *Index) Kept() (kept []TagRecord, tags int, err error) {
	frozen, candidate, earlier := []byte(`"frozen":{`), []byte(`"candidate":{`), []byte(`"earlier":[`)
	parse := func(key string, value []byte) (TagRecord, bool) {
		if name, ok := parseName(key); !ok || name.Kind != KindTag {
			return TagRecord{}, false
		}
		tags++
		head, _, _ := bytes.Cut(value, earlier) // fields are written in the order of Tag
		if !bytes.Contains(head, frozen) && !bytes.Contains(head, candidate) {
			return TagRecord{}, false
		}
		return parseTagRecord(key, value)
	}
	for one, err := range records(x, tagFamily, "", parse) {
		if err != nil {
			return kept, tags, err
		}
		kept = append(kept, one)
	}
	return kept, tags, nil
}
