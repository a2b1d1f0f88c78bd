package pins

import (
	"cmp"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/eviction/digests"
)

// entry is what a look found of a pin or a frozen tag.
type entry struct {
	pin       *pin
	digest    digest.Digest // what the reference names; empty if that is not known
	platforms []string
	bytes     int64
	missing   int
	lost      int64     // bytes of what is missing
	manifests int       // of missing, those that are manifests; 1 if the digest is not known
	why       string    // why it is not whole, where that is known without asking
	since     time.Time // since when it is not whole
}

func (e *entry) whole() bool { return e.digest != "" && e.missing == 0 }

// look reads the pins file if it has changed, ends pins whose time has come, and
// finds what belongs to the pins now, and what of that is missing. It returns how
// long that took.
func (p *Pins) look() time.Duration {
	begun := time.Now()
	p.changing.Lock()
	defer p.changing.Unlock()
	p.readFile()
	p.expire()
	next := newMemory(p.o.Store, p.memory)
	found := make(map[string]entry)
	var trees []*tree
	var changed []*pin
	for _, one := range p.all() {
		e, t := p.examine(next, one)
		trees = append(trees, t)
		if now := one.learn(e); now != one {
			changed = append(changed, now)
			e.pin = now
		}
		found[one.key()] = e
	}
	next.before, p.memory = nil, next
	p.o.Ledger.SetPinned(digestsOf(trees))
	p.save(changed)
	p.publish(found, trees)
	p.kick()
	return time.Since(begun)
}

// all returns the pins and the frozen tags, by reference.
func (p *Pins) all() []*pin {
	p.mu.Lock()
	all := slices.Collect(maps.Values(p.pins))
	p.mu.Unlock()
	if p.o.Frozen != nil {
		for name, d := range p.o.Frozen() {
			one := &pin{frozen: d, Pin: index.Pin{By: byFreeze}}
			one.ref.Registry, one.ref.Repository, one.ref.Tag = name.Registry, name.Repository, name.Name
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b *pin) int { return cmp.Compare(a.key(), b.key()) })
	return all
}

// expire ends pins. p.changing is held.
func (p *Pins) expire() {
	now := p.o.Now()
	var ended []*pin
	p.mu.Lock()
	for _, one := range p.pins {
		if !one.Until.IsZero() && !one.Until.After(now) {
			ended = append(ended, one)
		}
	}
	p.mu.Unlock()
	if err := p.remove("a pin has ended", ended...); err != nil {
		p.indexFailed(err)
	}
}

// indexFailed logs that a change of the pins cannot be written. The next look tries
// again.
func (p *Pins) indexFailed(err error) {
	if !errors.Is(err, index.ErrNoRoom) { // a full disk is logged elsewhere
		p.o.Log.Warn("a change of the pins cannot be written to the index", "err", err)
	}
}

// examine finds what belongs to a pin. The tree has the image before, too, while
// the one that is named now is not whole.
func (p *Pins) examine(m *memory, one *pin) (entry, *tree) {
	e := entry{pin: one, digest: cmp.Or(one.frozen, one.ref.Digest)}
	if e.digest == "" {
		e.digest, e.why = p.named(one)
	}
	t := p.treeOf(m, one, e.digest)
	e.platforms, e.missing, e.lost, e.manifests = t.platforms, t.missing, t.missingBytes, t.manifests
	if e.digest == "" {
		e.manifests = 1
	}
	if t.largest > p.o.MaxBlob && t.missing > 0 {
		e.why = ErrTooLarge.Error() + ": it has a layer above HUBCAP_MAX_BLOB"
	}
	if !e.whole() && one.Held != "" {
		t.addManifest(one.Held, -1, false, maxDepth)
	}
	e.bytes = t.bytes
	return e, t
}

// named returns the digest that a tag names, as far as that is known here, or why
// it is not.
func (p *Pins) named(one *pin) (d digest.Digest, why string) {
	repository, err := p.o.Repository(one.ref.Registry, one.ref.Repository)
	if err != nil {
		return "", err.Error()
	}
	tag, known, err := p.o.Index.Tag(index.Name{
		Registry: one.ref.Registry, Repository: one.ref.Repository, Kind: index.KindTag, Name: one.ref.Tag, Restricted: repository.Restricted,
	})
	switch {
	case err != nil:
		return "", err.Error()
	case !known:
		return "", "what the tag names is not known here"
	}
	return tag.Digest, ""
}

// learn returns the pin with what a look has shown: itself if that is not new.
func (p *pin) learn(e entry) *pin {
	if p.frozen != "" {
		return p
	}
	now := *p
	if e.whole() {
		now.Held = e.digest
	}
	if len(p.Platforms) == 0 && e.digest != "" && e.whole() {
		now.Pulled = e.platforms
	}
	if now.Held == p.Held && slices.Equal(now.Pulled, p.Pulled) {
		return p
	}
	return &now
}

// save writes pins that have changed. One that cannot be written now is at the
// next look.
func (p *Pins) save(changed []*pin) {
	if len(changed) == 0 {
		return
	}
	var records []index.PinRecord
	for _, one := range changed {
		records = append(records, one.record())
	}
	if err := p.o.Index.PutPins(records...); err != nil {
		p.indexFailed(err)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range changed {
		p.pins[one.key()] = one
	}
}

// publish takes what a look found.
func (p *Pins) publish(found map[string]entry, trees []*tree) {
	total, missing := sum(trees)
	now := p.o.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, e := range found {
		before, known := p.entries[key]
		switch {
		case e.whole():
			if last := p.attempts[key]; last != nil && now.Sub(last.at) > maxPause {
				delete(p.attempts, key)
			}
		case known && !before.whole():
			e.since = before.since
		default:
			e.since = now
			if known {
				p.o.Log.Warn("parts of a pinned image are missing", "image", e.pin.ref.String(), "parts", e.missing, "bytes", e.lost)
			}
		}
		found[key] = e
	}
	p.entries, p.bytes, p.missing = found, total, missing
}

// digestsOf iterates over all digests in trees; some come several times.
func digestsOf(trees []*tree) iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		for _, t := range trees {
			for _, part := range t.parts {
				if !yield(part.digest) {
					return
				}
			}
		}
	}
}

// sum returns the bytes of all parts, and of those that are required and missing,
// each digest counted once.
func sum(trees []*tree) (total, missing int64) {
	seen := digests.New[bool]() // whether it was counted as missing
	for _, t := range trees {
		for _, part := range t.parts {
			r, counted := seen.Find(part.digest)
			if !counted {
				r = seen.Add(part.digest)
				total += part.size
			}
			if lacks := seen.At(r); !*lacks && t.seen[part.digest] && !t.holds(part.digest) {
				*lacks = true
				missing += part.size
			}
		}
	}
	return total, missing
}
