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
	return m.assessOn(one, now, Terms{Days: m.o.Days})
}

// assessOn is assess on any terms.
func (m *Images) assessOn(one *image, now time.Time, terms Terms) Image {
	if m.usual(terms) {
		one.open.Store(false) // what is learned from here on opens it again
	}
	row := Image{Ref: one.reference().String(), Used: one.at(), Pulls: one.pulls(now), Digest: one.current(), Platforms: []Platform{}}
	row.Pinned = m.o.Pinned != nil && m.o.Pinned(one.reference())
	served, repo, err := m.inOutage(one)
	if err != nil {
		row.Why = err.Error()
	}
	if served.Named != "" {
		row.Digest = served.Named
	}
	a := assessment{Images: m, image: one, repo: repo, now: now, Terms: terms, counted: make(map[digest.Digest]bool)}
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
	if wanted && within(one.at(), now, terms.Days) {
		row.Outage = outageOf(refused, gaps)
	}
	if m.usual(terms) {
		one.verdict.Store(&verdict{row.Outage, row.Size, row.Held})
		one.settle(served, row.Outage)
	}
	return row
}

func outageOf(refused, gaps bool) Outage {
	switch {
	case refused:
		return Refused
	case gaps:
		return Gaps
	}
	return Ready
}

// inOutage returns what a client at a mirror port would be answered with. repo is
// nil where it is refused in any case.
func (m *Images) inOutage(one *image) (served pull.Outcome, repo *pull.Repository, err error) {
	if repo, err = m.repository(one); err == nil {
		served, err = repo.InOutage(one.request())
	}
	return served, repo, err
}

// repository returns that of an image, as clients at a mirror port see it; nil with
// the error where they are refused it.
func (m *Images) repository(one *image) (*pull.Repository, error) {
	up, ok := m.o.Upstreams.Find(one.registry)
	if !ok {
		return nil, errNotConfigured
	}
	repo, err := m.o.Pull.Repository(up, one.name, pull.Identity{})
	if err != nil {
		return nil, err
	}
	return &repo, nil
}

// within reports whether something was used within so many days before now.
func within(used, now time.Time, days int) bool {
	return !used.IsZero() && now.Sub(used) < time.Duration(days)*24*time.Hour
}

// assessment is the assessing of one image.
type assessment struct {
	*Images
	*image
	Terms
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
	whole := m.held
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
		switch {
		case needed && !stored:
			whole = false
			p.Gaps = append(p.Gaps, a.gap(part, as, p.Used))
		case needed && a.Verified && !a.o.Cache.Verified(part.Digest):
			p.Gaps = append(p.Gaps, Gap{Part: as, Digest: part.Digest, Size: part.Size, Why: NotVerified})
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
	p.Wanted = a.wanted(known) || m.key == "" || whole
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
	return within(known.at(), a.now, a.Days) || len(*a.platforms.Load()) == 1 && within(a.at(), a.now, a.Days)
}

// gap says why a part of a platform is missing that was last used at a time.
func (a *assessment) gap(part content.Part, as Part, used time.Time) Gap {
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
	case !used.IsZero() && used.Before(a.started):
		g.Why = LostBefore // what was lost is remembered since the start only
	}
	return g
}
