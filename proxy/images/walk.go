package images

import (
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/freshness"
)

// Summary is what a walk over all images has found.
type Summary struct {
	Days    int       `json:"days"`   // for how long a pulled image is wanted
	Images  int       `json:"images"` // that are wanted
	Ready   int       `json:"ready"`
	Gaps    int       `json:"gaps"`
	Refused int       `json:"refused"`
	Missing int64     `json:"missing_bytes"`    // of all gaps; what images share counts once
	Checked time.Time `json:"checked,omitzero"` // zero before the first walk
}

// Walk looks at all images, and forgets those that no client has asked for within
// the window and of which nothing is held. It returns the images that have gaps or
// would be refused, the platforms that are not wanted left out.
func (m *Images) Walk() (s Summary, not []Image) {
	m.walking.Lock()
	defer m.walking.Unlock()
	now := m.o.Now()
	s = Summary{Days: m.o.Days, Checked: now}
	missing := make(map[digest.Digest]bool)
	for _, one := range m.all() {
		if one.last.Load() == 0 && !one.added.Load() {
			continue
		}
		row := m.assess(one, now)
		switch row.Outage {
		case Ready:
			s.Ready++
		case Gaps:
			s.Gaps++
		case Refused:
			s.Refused++
		default:
			if row.Held == 0 && !m.inWindow(time.Unix(max(one.last.Load(), one.asked.Load()), 0), now) && !row.Pinned && row.State != freshness.Frozen {
				m.forget(one)
			}
			continue
		}
		s.Images++
		if row.Outage != Ready {
			s.Missing += onlyWanted(&row, missing)
			not = append(not, row)
		}
	}
	m.walk.Store(&s)
	return s, not
}

// onlyWanted leaves out the platforms of an image that are not wanted, and returns
// the bytes of those gaps of the others that are not in missing yet.
func onlyWanted(row *Image, missing map[digest.Digest]bool) (bytes int64) {
	wanted := row.Platforms[:0]
	for _, p := range row.Platforms {
		if !p.Wanted {
			continue
		}
		wanted = append(wanted, p)
		for _, g := range p.Gaps {
			if !missing[g.Digest] {
				missing[g.Digest] = true
				bytes += max(g.Size, 0)
			}
		}
	}
	row.Platforms = wanted
	return bytes
}

// Summary returns what the last walk has found.
func (m *Images) Summary() Summary {
	if s := m.walk.Load(); s != nil {
		return *s
	}
	return Summary{Days: m.o.Days}
}
