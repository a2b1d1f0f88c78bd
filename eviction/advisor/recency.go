package advisor

// recency is the order in which the objects of a sample were last used, with
// the bytes behind each of them, in a Fenwick tree.
type recency struct {
	tree []int64  // tree[i] is the sum of the sizes of the i&-i places up to i
	who  []uint64 // the hash at each place; of removed ones still
	used []bool   // whether there is an object at a place
	last int32    // the place that was given last; places begin at 1
	sum  int64    // of all sizes
}

func newRecency(places int) recency {
	return recency{tree: make([]int64, places+1), who: make([]uint64, places+1), used: make([]bool, places+1)}
}

func (r *recency) full() bool { return int(r.last) == len(r.tree)-1 }

// append gives an object the last place. There must be one: not full.
func (r *recency) append(hash uint64, size int64) int32 {
	r.last++
	r.who[r.last], r.used[r.last] = hash, true
	r.add(r.last, size)
	return r.last
}

func (r *recency) remove(at int32, size int64) {
	r.used[at] = false
	r.add(at, -size)
}

func (r *recency) add(at int32, size int64) {
	r.sum += size
	for i := int(at); i < len(r.tree); i += i & -i {
		r.tree[i] += size
	}
}

// after returns the bytes of the objects behind a place.
func (r *recency) after(at int32) int64 {
	sum := r.sum
	for i := at; i > 0; i -= i & -i {
		sum -= r.tree[i]
	}
	return sum
}

// compact closes the gaps. It calls moved with each object's new place, and
// takes its size from it.
func (r *recency) compact(moved func(hash uint64, at int32) (size int64)) {
	end := r.last
	clear(r.tree)
	r.last, r.sum = 0, 0
	for at := int32(1); at <= end; at++ {
		if r.used[at] {
			r.used[at] = false
			r.append(r.who[at], moved(r.who[at], r.last+1))
		}
	}
}

// hashes is a container/heap with the largest hash at its top.
type hashes []uint64

func (h hashes) Len() int           { return len(h) }
func (h hashes) Less(i, j int) bool { return h[i] > h[j] }
func (h hashes) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *hashes) Push(x any)        { *h = append(*h, x.(uint64)) }
func (h *hashes) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
