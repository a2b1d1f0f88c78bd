package images

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"hubcap/proxy/reference"
)

// Sort is an order of the list of images.
type Sort string

// The orders.
const (
	ByUse   Sort = "used"  // last used first
	ByName  Sort = "name"  // a to z
	BySize  Sort = "size"  // largest first
	ByPulls Sort = "pulls" // most pulled first
)

// Query says which images are listed, and in which order. The zero value is for all
// of them by use.
type Query struct {
	Q        string // a part of the name, or a glob of it with or without the registry, the tag or both
	Registry string
	State    string // held, gaps, pinned, frozen, cooling
	Sort     Sort
	After    string // Page.Next of the page before
	Limit    int    // at most so many rows, maxRows if it is not positive or larger
}

// maxRows is the most rows of a page.
const maxRows = 1000

// Page is a page of the list.
type Page struct {
	Images []Image `json:"images"`
	Next   *string `json:"next"` // for Query.After; null at the end
}

// key is where a row stands in the list: at its value, the larger ones first, and
// then by name.
type key struct {
	value int64
	name  string
}

func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(other.value, k.value), strings.Compare(k.name, other.name))
}

func (k key) String() string { return strconv.FormatInt(k.value, 10) + " " + k.name }

func parseKey(s string) (k key, err error) {
	value, name, ok := strings.Cut(s, " ")
	k.name = name
	if k.value, err = strconv.ParseInt(value, 10, 64); err != nil || !ok {
		return k, fmt.Errorf("after=%q: not from a page before", s)
	}
	return k, nil
}

// List returns a page of the images. What is filtered and sorted by is up to five
// minutes old, as Walk has found it; the rows are of now. The error is for a Query
// that is wrong.
func (m *Images) List(q Query) (Page, error) {
	if err := q.check(); err != nil {
		return Page{}, err
	}
	now := m.o.Now()
	var after *key
	if q.After != "" {
		k, err := parseKey(q.After)
		if err != nil {
			return Page{}, err
		}
		after = &k
	}
	type entry struct {
		key
		*image
	}
	var all []entry
	for _, one := range m.all() {
		if one.last.Load() == 0 && !one.added.Load() || q.Registry != "" && one.registry != q.Registry || !q.matches(one) {
			continue
		}
		e := entry{m.key(one, q.Sort, now), one}
		if (after == nil || e.compare(*after) > 0) && m.inState(one, q.State, now) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return a.compare(b.key) })
	page := Page{Images: []Image{}}
	for _, e := range all[:min(len(all), q.Limit)] {
		page.Images = append(page.Images, m.assess(e.image, now))
	}
	if len(all) > q.Limit {
		next := all[q.Limit-1].String()
		page.Next = &next
	}
	return page, nil
}

func (q *Query) check() error {
	if q.Limit <= 0 || q.Limit > maxRows {
		q.Limit = maxRows
	}
	switch q.Sort {
	case "":
		q.Sort = ByUse
	case ByUse, ByName, BySize, ByPulls:
	default:
		return fmt.Errorf("sort=%q: want used, name, size or pulls", q.Sort)
	}
	switch q.State {
	case "", "held", "gaps", "pinned", "frozen", "cooling":
	default:
		return fmt.Errorf("state=%q: want held, gaps, pinned, frozen or cooling", q.State)
	}
	if isGlob(q.Q) && !doublestar.ValidatePattern(q.Q) {
		return fmt.Errorf("q=%q: not a valid glob", q.Q)
	}
	return nil
}

func isGlob(s string) bool { return strings.ContainsAny(s, "*?[{") }

// matches reports whether an image's name is one that is looked for.
func (q *Query) matches(one *image) bool {
	if q.Q == "" {
		return true
	}
	full := one.reference().String()
	if !isGlob(q.Q) {
		return strings.Contains(full, q.Q)
	}
	short := strings.TrimPrefix(full, one.registry+"/")
	for _, name := range []string{full, short, one.registry + "/" + one.name, one.name} {
		if doublestar.MatchUnvalidated(q.Q, name) {
			return true
		}
	}
	return false
}

func (m *Images) key(one *image, by Sort, now time.Time) key {
	k := key{name: one.reference().String()}
	switch by {
	case ByUse:
		k.value = one.last.Load()
	case ByPulls:
		k.value = int64(one.pulls(now))
	case BySize:
		k.value = m.verdictOf(one, now).size
	}
	return k
}

func (m *Images) inState(one *image, state string, now time.Time) bool {
	switch state {
	case "held":
		return m.verdictOf(one, now).held > 0
	case "gaps":
		v := m.verdictOf(one, now).outage
		return v == Gaps || v == Refused
	case "pinned":
		return m.o.Pinned != nil && m.o.Pinned(one.reference())
	case "frozen", "cooling":
		served, _, _ := m.inOutage(one) // the error is about serving it
		return served.Tag != nil && string(served.Tag.State) == state
	}
	return true
}

// verdictOf returns what was found of an image, now if it was not looked at yet.
func (m *Images) verdictOf(one *image, now time.Time) verdict {
	if v := one.verdict.Load(); v != nil {
		return *v
	}
	m.assess(one, now)
	return *one.verdict.Load()
}

// Image returns the row of one image; ok is false where it is not known.
func (m *Images) Image(r reference.Reference) (row Image, ok bool) {
	one := m.known(r)
	if one == nil {
		return Image{}, false
	}
	return m.assess(one, m.o.Now()), true
}

// known returns an image; nil where it is not known.
func (m *Images) known(r reference.Reference) *image {
	repo := m.find(Answer{Registry: r.Registry, Repository: r.Repository})
	if repo == nil {
		return nil
	}
	return (*repo.images.Load())[nameOf(r)]
}
