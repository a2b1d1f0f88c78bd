package images

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"

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
// of them by use. The API refuses what is none of the values below.
type Query struct {
	Q        string `query:"q" maxLength:"600" doc:"A part of the name, or a glob of it: nginx, library/*, ghcr.io/acme/**:pr-*"`
	Registry string `query:"registry" maxLength:"300" doc:"Such as ghcr.io"`
	State    string `query:"state" enum:"held,gaps,pinned,frozen,cooling" doc:"held: something of it is here; gaps: it could not be pulled in full if its registry failed"`
	Sort     Sort   `query:"sort" enum:"used,name,size,pulls" default:"used" doc:"The last used first, a to z, the largest or the most pulled first"`
	After    string `query:"after" maxLength:"1000" doc:"next of the page before"`
	// Limit is at most so many rows: maxRows if it is not positive or larger.
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Rows of this page"`
}

// maxRows is the most rows of a page.
const maxRows = 1000

// Page is a page of the list.
type Page struct {
	Images []Image `json:"images"`
	Next   string  `json:"next,omitempty"` // for Query.After; absent on the last page
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
	rows := first{n: q.Limit + 1} // one more says whether there is a next page
	for _, one := range m.all() {
		if one.last.Load() == 0 && !one.added.Load() || q.Registry != "" && one.registry != q.Registry || !q.matches(one) {
			continue
		}
		value := m.value(one, q.Sort, now)
		if after != nil && value > after.value || rows.beyond(value) {
			continue
		}
		k := key{value, one.reference().String()}
		if (after == nil || k.compare(*after) > 0) && m.inState(one, q.State, now) {
			rows.add(entry{k, one})
		}
	}
	rows.cut()
	page := Page{Images: []Image{}}
	for _, e := range rows.all[:min(len(rows.all), q.Limit)] {
		page.Images = append(page.Images, m.row(e.image, now))
	}
	if len(rows.all) > q.Limit {
		page.Next = rows.all[q.Limit-1].String()
	}
	return page, nil
}

// entry is an image with where it stands in the list.
type entry struct {
	key
	*image
}

// first keeps the first n entries of those that are added. Most of the others are
// passed over by a look at their value: a page of 50 of 100,000 images sorts few.
type first struct {
	n   int
	all []entry // fewer than 2n, of which the first n are in order after a cut
	end *key    // of the last one that is kept; nil while there are fewer than n
}

// beyond reports whether an entry with a value is none of the first, whatever its name.
func (f *first) beyond(value int64) bool { return f.end != nil && value < f.end.value }

func (f *first) add(e entry) {
	if f.end != nil && e.compare(*f.end) > 0 {
		return
	}
	if f.all = append(f.all, e); len(f.all) == 2*f.n {
		f.cut()
	}
}

func (f *first) cut() {
	slices.SortFunc(f.all, func(a, b entry) int { return a.compare(b.key) })
	if len(f.all) >= f.n {
		f.all = f.all[:f.n]
		end := f.all[f.n-1].key
		f.end = &end
	}
}

func (q *Query) check() error {
	if q.Limit <= 0 || q.Limit > maxRows {
		q.Limit = maxRows
	}
	q.Sort = cmp.Or(q.Sort, ByUse)
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

// value returns what an image is sorted by before its name.
func (m *Images) value(one *image, by Sort, now time.Time) int64 {
	switch by {
	case ByUse:
		return one.last.Load()
	case ByPulls:
		return int64(one.pulls(now))
	case BySize:
		return m.verdictOf(one, now).size
	}
	return 0
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
		repo, err := m.repository(one)
		if err != nil || one.tag == "" {
			return false
		}
		now, known := repo.Outlook(one.tag)
		return known && string(now.State) == state
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
	return m.row(one, m.o.Now()), true
}

// row is assess, with what the image shares with others.
func (m *Images) row(one *image, now time.Time) Image {
	row := m.assess(one, now)
	own, named := make(map[digest.Digest]bool), make(map[digest.Digest]bool)
	for _, p := range row.Platforms {
		own[p.Digest] = true
	}
	other := func(by digest.Digest) bool { return !own[by] }
	for d := range own {
		parts, _ := m.o.Cache.Parts(d)
		for _, part := range parts {
			size, held := m.o.Ledger.Size(part.Digest)
			if held && !named[part.Digest] && slices.ContainsFunc(m.o.Cache.NamedBy(part.Digest), other) {
				row.Shared += size
			}
			named[part.Digest] = true
		}
	}
	return row
}

// Wants returns the platforms of an image that clients have asked a layer of, last
// used first, as an index calls them. Those that an index does not name are left out.
func (m *Images) Wants(r reference.Reference) (all []string) {
	one := m.known(r)
	if one == nil {
		return nil
	}
	platforms := *one.platforms.Load()
	for _, key := range slices.SortedFunc(maps.Keys(platforms), func(a, b string) int { return cmp.Compare(platforms[b].last.Load(), platforms[a].last.Load()) }) {
		if strings.Contains(key, "/") {
			all = append(all, key)
		}
	}
	return all
}

// Forget forgets an image, until a client asks for it again.
func (m *Images) Forget(r reference.Reference) {
	if one := m.known(r); one != nil {
		m.forget(one)
	}
}

// known returns an image; nil where it is not known.
func (m *Images) known(r reference.Reference) *image {
	repo := m.find(Answer{Registry: r.Registry, Repository: r.Repository})
	if repo == nil {
		return nil
	}
	return (*repo.images.Load())[nameOf(r)]
}
