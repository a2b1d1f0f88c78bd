package images

import (
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
)

// Names returns the images that are known, by the digest that each names.
func (m *Images) Names() map[digest.Digest][]string {
	names := make(map[digest.Digest][]string)
	for _, one := range m.all() {
		if d := one.named.Load(); d != nil && (one.last.Load() != 0 || one.added.Load()) {
			names[*d] = append(names[*d], one.reference().String())
		}
	}
	return names
}

// Broken returns the images that would survive an outage now, and would not without
// what is in gone. An image that would then be answered with an earlier digest counts
// as one of them.
func (m *Images) Broken(gone map[digest.Digest]bool) (refs []string) {
	affected := maps.Clone(gone)
	for d := range gone {
		for _, above := range m.o.Cache.Indexes(d) {
			affected[above] = true
		}
	}
	now := m.o.Now()
	for _, one := range m.all() {
		if one.last.Load() == 0 {
			continue
		}
		served, _, err := m.inOutage(one)
		if err != nil || !affected[served.Served] {
			continue
		}
		if row := m.assess(one, now); row.Outage == Ready && m.breaks(one, served.Served, gone, now) {
			refs = append(refs, row.Ref)
		}
	}
	slices.Sort(refs)
	return refs
}

// breaks reports whether an image that is ready would not be without what is gone:
// its manifest, something of a platform that clients want, or of all that are held.
func (m *Images) breaks(one *image, served digest.Digest, gone map[digest.Digest]bool, now time.Time) bool {
	if gone[served] {
		return true
	}
	a := assessment{Images: m, image: one, now: now, Terms: Terms{Days: m.o.Days}}
	remains := false
	for _, p := range m.manifests(served) {
		missing := gone[p.Digest] || slices.ContainsFunc(p.Parts, func(p content.Part) bool { return p.Is(content.RoleNeeded) && gone[p.Digest] })
		switch wanted := p.key == "" || a.wanted((*one.platforms.Load())[p.key]); {
		case wanted && missing:
			return true
		case wanted, p.held && !missing && m.stores(p):
			remains = true
		}
	}
	return !remains
}

// stores reports whether what a platform needs is held.
func (m *Images) stores(p manifest) bool {
	return !slices.ContainsFunc(p.Parts, func(p content.Part) bool { return p.Is(content.RoleNeeded) && !m.o.Ledger.Holds(p.Digest) })
}
