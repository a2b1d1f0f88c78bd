package images

import (
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/freshness"
)

// Terms is what is asked of an image that would survive.
type Terms struct {
	Days     int  // for how long an image counts after a pull
	Verified bool // each of its files was verified within VERIFY_INTERVAL
}

// usual reports whether these are the terms of the configuration.
func (m *Images) usual(t Terms) bool { return t == Terms{Days: m.o.Days} }

// Summary is what a walk over all images has found.
type Summary struct {
	Days    int       `json:"days" doc:"For how long an image counts after a pull"`
	Images  int       `json:"images" doc:"That clients have pulled within that time"`
	Ready   int       `json:"ready" doc:"Of these, could be pulled in full if all registries failed from now on"`
	Gaps    int       `json:"gaps" doc:"Something of them is missing"`
	Refused int       `json:"refused" doc:"What is held of them may not be served then"`
	Missing int64     `json:"missing_bytes" doc:"Of what is missing and whose size is known; what images share counts once"`
	Pulls   int       `json:"missing_pulls" doc:"Manifests that are missing: each is a pull of its registry's pull limit"`
	Checked time.Time `json:"checked,omitzero" doc:"Absent before the first look"`
}

// Walk looks at all images, and forgets those that no client has asked for within
// the window and of which nothing is held. It returns the images that have gaps or
// would be refused, by name, the platforms that are not wanted left out. On other terms
// than the configured ones nothing is forgotten, and Summary and List do not change.
func (m *Images) Walk(terms Terms) (s Summary, not []Image) {
	m.walking.Lock()
	defer m.walking.Unlock()
	now := m.o.Now()
	s = Summary{Days: terms.Days, Checked: now}
	missing := make(map[digest.Digest]bool)
	still := m.unchanged(terms)
	for _, one := range m.all() {
		if one.last.Load() == 0 && !one.added.Load() {
			continue
		}
		if outage, known := still(one, now); known {
			s.count(outage)
			continue
		}
		row := m.assessOn(one, now, terms)
		s.count(row.Outage)
		switch row.Outage {
		case "":
			if m.usual(terms) && m.outdated(one, &row, now) {
				m.forget(one)
			}
		case Gaps, Refused:
			bytes, pulls := onlyWanted(&row, missing)
			s.Missing, s.Pulls = s.Missing+bytes, s.Pulls+pulls
			not = append(not, row)
		}
	}
	if m.usual(terms) {
		m.walk.Store(&s)
	}
	slices.SortFunc(not, func(a, b Image) int { return strings.Compare(a.Ref, b.Ref) })
	return s, not
}

// count counts an image.
func (s *Summary) count(o Outage) {
	switch o {
	case Ready:
		s.Ready++
	case Gaps:
		s.Gaps++
	case Refused:
		s.Refused++
	default:
		return
	}
	s.Images++
}

// outdated reports whether an image need not be remembered.
func (m *Images) outdated(one *image, row *Image, now time.Time) bool {
	return row.Held == 0 && !row.Pinned && row.State != freshness.Frozen &&
		!within(time.Unix(max(one.last.Load(), one.asked.Load()), 0), now, m.o.Days)
}

// onlyWanted leaves out the platforms of an image that are not wanted, and returns
// the bytes and the manifests of those gaps of the others that are not in missing
// yet.
func onlyWanted(row *Image, missing map[digest.Digest]bool) (bytes int64, pulls int) {
	wanted := row.Platforms[:0]
	for _, p := range row.Platforms {
		if !p.Wanted {
			continue
		}
		wanted = append(wanted, p)
		for _, g := range p.Gaps {
			if !missing[g.Digest] && g.Why != NotVerified {
				missing[g.Digest] = true
				bytes += max(g.Size, 0)
				if g.Part == ManifestPart {
					pulls++
				}
			}
		}
	}
	row.Platforms = wanted
	return bytes, pulls
}

// Summary returns what the last walk has found.
func (m *Images) Summary() Summary {
	if s := m.walk.Load(); s != nil {
		return *s
	}
	return Summary{Days: m.o.Days}
}
