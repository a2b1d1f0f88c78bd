package eviction

import (
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/eviction/digests"
)

// Images says which objects make up an image. Its methods are called while the
// ledger is locked, and call none of the ledger's.
type Images interface {
	// Naming returns the manifests that name d.
	Naming(d digest.Digest) []digest.Digest
	// Needed returns what has to be held beside the manifest d for its image to
	// be whole; nothing for what is no manifest of an image.
	Needed(d digest.Digest) []digest.Digest
}

// KeepWhole has what an image needs alone evicted next after a part of it, so
// that what is evicted makes few images incomplete.
func (l *Ledger) KeepWhole(images Images) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.images = images
}

// Bounds of what is evicted because its image is no longer whole.
const (
	// An object that more manifests name is not looked into.
	maxNaming = 32
	// What was used so much later than the part evicted was used for something
	// else than their image.
	usedTogether = 10 * time.Minute
)

// order is the order in which objects are evicted from now on. The ledger is
// locked while it is used; what take has returned may be removed meanwhile.
type order struct {
	l         *Ledger
	intoShare bool
	smallLeft amount
	small     digests.Ref // the next one of the small segment
	large     [sizeLists]digests.Ref
	rest      []digests.Ref        // of images that are no longer whole
	taken     map[digests.Ref]bool // false for what is in rest
	whole     map[digest.Digest]bool
}

// evictionOrder returns the present order. intoShare allows to evict the share
// of the small segment: for small objects and for a file system that is full.
// l.mu is held.
func (l *Ledger) evictionOrder(intoShare bool) *order {
	o := &order{
		l: l, intoShare: intoShare, smallLeft: l.small.all, small: l.small.oldest,
		taken: make(map[digests.Ref]bool), whole: make(map[digest.Digest]bool),
	}
	for i := range l.large {
		o.large[i] = l.large[i].oldest
	}
	return o
}

// take returns the next object, 0 for none: what is left of images that are no
// longer whole, then small ones beyond their share, then large ones.
func (o *order) take() (r digests.Ref) {
	next := &o.small
	switch beyond := o.smallLeft.bytes > o.l.smallLimit || o.intoShare && o.smallLeft.bytes == o.l.smallLimit; {
	case len(o.rest) > 0:
		next = &o.rest[0]
		o.rest = o.rest[1:]
	case o.small == 0 || !beyond:
		if large := o.nextLarge(); large != nil || !o.intoShare {
			next = large
		}
	}
	if next == nil || *next == 0 {
		return 0
	}
	r = *next
	o.taken[r] = true
	if l := o.l.listOf(o.l.objects.At(r)); l == &o.l.small {
		o.smallLeft.bytes -= onDisk(o.l.objects.At(r).size)
		o.skip(&o.small)
	} else {
		o.skip(&o.large[o.l.sizeList(o.l.objects.At(r).size)])
	}
	if o.l.images != nil {
		o.breaks(r)
	}
	return r
}

// skip moves on to the next object that is not taken.
func (o *order) skip(next *digests.Ref) {
	for *next != 0 && o.taken[*next] {
		*next = o.l.objects.At(*next).newer
	}
}

// nextLarge returns the list whose oldest object is evicted next, nil if all are
// empty: the one whose object is the oldest, its age doubled for each sizeStep.
func (o *order) nextLarge() (next *digests.Ref) {
	var oldest uint64
	for i := range o.large {
		r := &o.large[i]
		if *r == 0 {
			continue
		}
		if age := (o.l.large[i].uses + 1 - o.l.objects.At(*r).turn) << i; age > oldest {
			next, oldest = r, age
		}
	}
	return next
}

// breaks puts into rest the large objects that only those images need that are
// no longer whole without r. Small objects are left: manifests cost pulls.
func (o *order) breaks(r digests.Ref) {
	d := o.l.objects.Digest(r)
	naming := o.l.images.Naming(d)
	if len(naming) > maxNaming {
		return
	}
	latest := o.l.objects.At(r).used + moment(usedTogether/time.Second)
	for _, image := range append(naming, d) {
		if whole, known := o.whole[image]; known && !whole {
			continue
		}
		o.whole[image] = false
		for _, part := range o.l.images.Needed(image) {
			p, found := o.l.objects.Find(part)
			if !found {
				continue
			}
			e := o.l.objects.At(p)
			_, known := o.taken[p]
			if !known && !e.pinned && e.used <= latest && o.l.listOf(e) != &o.l.small && !o.needed(part) {
				o.taken[p] = false
				o.rest = append(o.rest, p)
			}
		}
	}
}

// needed reports whether d is part of an image that is whole.
func (o *order) needed(d digest.Digest) bool {
	naming := o.l.images.Naming(d)
	if len(naming) > maxNaming {
		return true
	}
	for _, image := range naming {
		if o.isWhole(image) {
			return true
		}
	}
	return false
}

func (o *order) isWhole(image digest.Digest) bool {
	whole, known := o.whole[image]
	if !known {
		needed := o.l.images.Needed(image)
		whole = len(needed) > 0 && o.stays(image)
		for i := 0; whole && i < len(needed); i++ {
			whole = o.stays(needed[i])
		}
		o.whole[image] = whole
	}
	return whole
}

// stays reports whether d is held and not taken.
func (o *order) stays(d digest.Digest) bool {
	r, held := o.l.whole(d)
	return held && !o.taken[r]
}
