package images

import (
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/proxy/pull"
)

// verdict is what the list of images is filtered and sorted by.
type verdict struct {
	outage     Outage
	size, held int64
}

// assess returns an image with what would become of it if all registries failed
// from now on. It asks none, reads no file as a rule, and is no use of what is
// held.
func (m *Images) assess(one *image, now time.Time) Image {
	row := Image{Ref: one.reference().String(), Used: one.at(), Pulls: one.pulls(now), Digest: one.current(), Platforms: []Platform{}}
	row.Pinned = m.o.Pinned != nil && m.o.Pinned(one.reference())
	served, repo, err := m.inOutage(one)
	if err != nil {
		row.Why = err.Error()
	}
	if served.Named != "" {
		row.Digest = served.Named
	}
	a := assessment{Images: m, image: one, repo: repo, now: now, counted: make(map[digest.Digest]bool)}
	if tag := served.Tag; tag != nil {
		row.State = tag.State
		if tag.FreshFor >= 0 {
			seconds := int64(tag.FreshFor / time.Second)
			row.FreshFor = &seconds
		}
		a.since, a.moved = tag.Since, one.current() != "" && row.Digest != one.current()
	}
	of := row.Digest
	if err == nil && served.Served != served.Named {
		row.Served, of = served.Served.String(), served.Served
	}
	refused := repo == nil || err == pull.ErrNotStale //nolint:errorlint // InOutage returns it as it is
	gaps, wanted := err != nil, false
	if of != "" {
		for _, manifest := range m.manifests(of) {
			p := a.platform(manifest, &row)
			row.Platforms = append(row.Platforms, p)
			wanted = wanted || p.Wanted
			gaps = gaps || p.Wanted && len(p.Gaps) > 0
		}
	}
	wanted = wanted || len(row.Platforms) == 0 && len(*one.platforms.Load()) > 0
	switch {
	case !wanted || !m.inWindow(one.at(), now):
	case refused:
		row.Outage = Refused
	case gaps:
		row.Outage = Gaps
	default:
		row.Outage = Ready
	}
	one.verdict.Store(&verdict{row.Outage, row.Size, row.Held})
	return row
}

// inOutage returns what a client at a mirror port would be answered with. repo is
// nil where it is refused in any case.
func (m *Images) inOutage(one *image) (pull.Outcome, *pull.Repository, error) {
	up, ok := m.o.Upstreams.Find(one.registry)
	if !ok {
		return pull.Outcome{}, nil, errNotConfigured
	}
	repo, err := m.o.Pull.Repository(up, one.name, pull.Identity{})
	if err != nil {
		return pull.Outcome{}, nil, err
	}
	served, err := repo.InOutage(one.request())
	return served, &repo, err
}

// inWindow reports whether a use counts as one of late.
func (m *Images) inWindow(used, now time.Time) bool {
	return !used.IsZero() && now.Sub(used) < time.Duration(m.o.Days)*24*time.Hour
}

// assessment is the assessing of one image.
type assessment struct {
	*Images
	*image
	repo    *pull.Repository // nil where it is refused
	now     time.Time
	counted map[digest.Digest]bool // in the row's sizes
	moved   bool                   // the tag names another digest than when it was last pulled
	since   time.Time              // since when
}

// platform returns a platform of the image, and adds its sizes to the row's.
func (a *assessment) platform(m manifest, row *Image) Platform {
	p := Platform{Platform: m.key, Digest: m.Digest}
	known := (*a.platforms.Load())[m.key]
	if known != nil {
		p.Used, p.Pulls = known.at(), known.pulls(a.now)
	}
	if m.key == "" {
		p.Used, p.Pulls = a.at(), a.pulls(a.now)
	}
	var size, held int64
	count := func(part content.Part, as Part, needed bool) {
		stored := a.repo != nil && a.repo.Stores(part)
		n := max(part.Size, 0)
		p.Size += n
		if stored {
			p.Held += n
		}
		if !a.counted[part.Digest] {
			a.counted[part.Digest] = true
			size += n
			if stored {
				held += n
			}
		}
		if needed && !stored {
			p.Gaps = append(p.Gaps, a.gap(part, as))
		}
	}
	count(a.self(m), ManifestPart, true)
	for _, part := range m.Parts {
		if part.Is(content.RoleForeign) {
			continue
		}
		as := LayerPart
		if part.Is(content.RoleConfig) {
			as = ConfigPart
		}
		count(part, as, part.Is(content.RoleNeeded))
	}
	p.Wanted = a.wanted(known) || m.key == "" || m.held && len(p.Gaps) == 0
	if p.Wanted || p.Held > 0 && m.held && held > 0 {
		row.Size += size
		row.Held += held
	}
	return p
}

// self returns the manifest of a platform as a part.
func (a *assessment) self(m manifest) content.Part {
	size := m.Size
	if size < 0 {
		if stored, held := a.o.Ledger.Size(m.Digest); held {
			size = stored
		}
	}
	return content.Part{Digest: m.Digest, Size: size, Role: content.RoleChild}
}

// wanted reports whether clients want a platform. Clients that have an image ask
// for its tag alone; where one platform is known, it is that which they have.
func (a *assessment) wanted(known *platform) bool {
	if known == nil {
		return false
	}
	return a.inWindow(known.at(), a.now) || len(*a.platforms.Load()) == 1 && a.inWindow(a.at(), a.now)
}

// gap says why a part is missing.
func (a *assessment) gap(part content.Part, as Part) Gap {
	g := Gap{Part: as, Digest: part.Digest, Size: part.Size, Why: NeverFetched}
	lost, gone := a.o.Cache.Gone(part.Digest)
	_, held := a.o.Ledger.Size(part.Digest)
	switch {
	case held:
		g.Why = Hidden
	case part.Size > a.o.Cache.MaxBlob():
		g.Why = TooLarge
	case gone && lost.Wrong:
		g.Why, g.At = Wrong, lost.At
	case gone:
		g.Why, g.At = Evicted, lost.At
	case a.moved:
		g.Why, g.At = Moved, a.since
	}
	return g
}
