package purge

import (
	"slices"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
)

// plan is what is to be removed.
type plan struct {
	names   []index.Name
	objects []digest.Digest // manifests before what they name
	shared  int             // objects that they name and that stay
	kept    []Kept
}

// plan finds the tags that go, and what no other tag and no other manifest needs
// then. What was pulled by digest alone has no tag, and its manifest still keeps what
// it names.
func (p *Purger) plan(find finder, force bool) plan {
	var made plan
	var roots []digest.Digest
	needed := make(map[digest.Digest]bool) // by tags that stay
	forced := false
	for name, tag := range p.o.Tags.Known("", "") {
		why := ""
		goes := find.matches != nil && find.matches(name)
		if goes {
			why = p.why(name)
		}
		switch {
		case goes && why != "" && !force:
			made.kept = append(made.kept, Kept{refOf(name), why})
			goes = false
		case goes:
			forced = forced || why != ""
			made.names = append(made.names, name)
		}
		for _, d := range digestsOf(tag) {
			if goes {
				roots = append(roots, d)
			} else {
				needed[d] = true
			}
		}
	}
	if find.digest != "" {
		forced = force
		delete(needed, find.digest)
		if roots = []digest.Digest{find.digest}; !force && p.o.Pinned(find.digest) {
			made.kept = append(made.kept, Kept{find.digest.String(), "it is pinned"})
			return made
		}
	}
	made.objects, made.shared = p.unneeded(roots, find.digest, func(d digest.Digest) bool {
		return needed[d] || !forced && p.o.Pinned(d)
	})
	return made
}

func (p *Purger) why(name index.Name) string {
	if p.o.Kept == nil || name.Kind != index.KindTag {
		return ""
	}
	return p.o.Kept(name)
}

// digestsOf returns what a tag names and named, and what its registry says that it
// names.
func digestsOf(tag index.Tag) []digest.Digest {
	all := []digest.Digest{tag.Digest}
	if tag.Candidate != nil {
		all = append(all, tag.Candidate.Digest)
	}
	for _, one := range tag.Earlier {
		all = append(all, one.Digest)
	}
	return all
}

// unneeded returns those of the roots and of what they name that go, and how many do
// not: one stays if it is needed, or if a manifest that stays names it. always goes
// whatever names it.
func (p *Purger) unneeded(roots []digest.Digest, always digest.Digest, needed func(digest.Digest) bool) (gone []digest.Digest, shared int) {
	goes := make(map[digest.Digest]bool)
	var all []digest.Digest // each before what it names
	for queue := slices.Clone(roots); len(queue) > 0; queue = queue[1:] {
		d := queue[0]
		if _, known := goes[d]; known {
			continue
		}
		goes[d] = !needed(d)
		all = append(all, d)
		parts, _ := p.o.Cache.Parts(d)
		for _, part := range parts {
			queue = append(queue, part.Digest)
		}
	}
	for changed := true; changed; { // as many times as indexes are nested
		changed = false
		for _, d := range all {
			if goes[d] && d != always && slices.ContainsFunc(p.o.Cache.NamedBy(d), func(by digest.Digest) bool { return !goes[by] }) {
				goes[d], changed = false, true
			}
		}
	}
	for _, d := range all {
		if goes[d] {
			gone = append(gone, d)
		} else if _, held := p.o.Cache.Purge(d, true); held {
			shared++
		}
	}
	return gone, shared
}
