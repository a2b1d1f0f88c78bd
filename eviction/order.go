package eviction

import (
	"slices"
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
// locked while it is used; what take has returned may be removed meanwhile. The
// ledger may be unlocked between two uses, of which the later one begins with
// resume.
type order struct {
	l         *Ledger
	intoShare bool
	preview   bool  // what is taken stays in the ledger
	smallLeft int64 // bytes of the small segment that are not taken
	small     place // the next one of the small segment
	large     [sizeLists]place
	guest     place                // the next guest; those beyond their share go first
	guestLeft int64                // bytes of guests that are not taken
	allGuests bool                 // go first
	rest      []place              // of images that are no longer whole
	taken     map[digests.Ref]bool // false for what is in rest
	whole     map[digest.Digest]bool
	bytes     int64 // on disk, of what was taken
}

// place is an object as it was found in a list. It has another turn once it was
// used or another object is at its place.
type place struct {
	ref  digests.Ref // 0 for none
	turn uint64
}

// evictionOrder returns the present order. intoShare allows to evict the share
// of the small segment: for small objects and for a file system that is full.
func (l *Ledger) evictionOrder(intoShare bool) *order {
	return &order{l: l, intoShare: intoShare, taken: make(map[digests.Ref]bool), whole: make(map[digest.Digest]bool)}
}

// resume takes in what has changed while the ledger was not locked.
func (o *order) resume() {
	if !o.preview || len(o.taken) == 0 {
		o.smallLeft, o.guestLeft = o.l.small.all.bytes, o.l.guests.list.all.bytes
	}
	o.check(&o.small, &o.l.small)
	o.check(&o.guest, &o.l.guests.list)
	for i := range o.large {
		o.check(&o.large[i], &o.l.large[i])
	}
	o.rest = slices.DeleteFunc(o.rest, func(p place) bool { return !o.l.isAt(p) })
}

// check has a place be the next object of a list that is not taken.
func (o *order) check(next *place, from *list) {
	if !o.l.isAt(*next) {
		*next = o.l.place(from.oldest)
		o.skip(next)
	}
}

func (l *Ledger) place(r digests.Ref) place {
	if r == 0 {
		return place{}
	}
	return place{r, l.objects.At(r).turn}
}

// isAt reports whether the object of a place is still there.
func (l *Ledger) isAt(p place) bool {
	if !l.objects.Holds(p.ref) {
		return false
	}
	e := l.objects.At(p.ref)
	return e.turn == p.turn && !e.pinned
}

// take returns the next object, 0 for none: guests beyond their share, then what is
// left of images that are no longer whole, then small ones beyond their share, then
// large ones.
func (o *order) take() (r digests.Ref) {
	if o.guest.ref != 0 && (o.allGuests || o.guestLeft > o.l.guests.limit) {
		return o.takeGuest()
	}
	next, rest := &o.small, len(o.rest) > 0
	switch beyond := o.smallLeft > o.l.smallLimit || o.intoShare && o.smallLeft == o.l.smallLimit; {
	case rest:
		next = &o.rest[0]
		o.rest = o.rest[1:]
	case o.small.ref == 0 || !beyond:
		if large := o.nextLarge(); large != nil || !o.intoShare {
			next = large
		}
	}
	if next == nil || next.ref == 0 {
		if o.intoShare && o.guest.ref != 0 {
			return o.takeGuest()
		}
		return 0
	}
	r = next.ref
	e := o.l.objects.At(r)
	o.taken[r] = true
	o.bytes += onDisk(e.size)
	if o.l.listOf(e) == &o.l.small {
		o.smallLeft -= onDisk(e.size)
		o.skip(&o.small)
	} else {
		o.skip(&o.large[o.l.sizeList(e.size)])
	}
	if o.l.images != nil && !rest && e.turn != retired {
		o.breaks(r)
	}
	return r
}

// takeGuest returns the next guest. Its image is left: what else it needs is held by
// the boxes that own it.
func (o *order) takeGuest() digests.Ref {
	r := o.guest.ref
	size := onDisk(o.l.objects.At(r).size)
	o.taken[r] = true
	o.bytes += size
	o.guestLeft -= size
	o.skip(&o.guest)
	return r
}

// skip moves on to the next object that is not taken.
func (o *order) skip(next *place) {
	for next.ref != 0 && o.taken[next.ref] {
		*next = o.l.place(o.l.objects.At(next.ref).newer)
	}
}

// retire has what is in rest evicted first from now on, also by another order.
func (o *order) retire() {
	for i, p := range slices.Backward(o.rest) {
		o.l.listOf(o.l.objects.At(p.ref)).retire(p.ref)
		o.rest[i].turn = retired
	}
}

// nextLarge returns the list whose oldest object is evicted next, nil if all are
// empty: the one whose object is the oldest, its age doubled for each sizeStep.
func (o *order) nextLarge() (next *place) {
	var oldest uint64
	for i := range o.large {
		p := &o.large[i]
		if p.ref == 0 {
			continue
		}
		if age := (o.l.large[i].uses + 1 - p.turn) << i; age > oldest {
			next, oldest = p, age
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
			if !known && !e.pinned && !e.guest && e.used <= latest && o.l.listOf(e) != &o.l.small && !o.needed(part) {
				o.taken[p] = false
				o.rest = append(o.rest, place{p, e.turn})
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

// stays reports whether d is held and not taken, or is what another box owns.
func (o *order) stays(d digest.Digest) bool {
	r, held := o.l.whole(d)
	return held && !o.taken[r] || o.l.guests.owned != nil && o.l.guests.owned(d)
}
