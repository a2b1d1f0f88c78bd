package page

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/advice"
	"hubcap/proxy/problems"
	"hubcap/proxy/setup"
)

// outageData is which images would survive an outage.
type outageData struct {
	api.Outage
	Offline api.Offline
}

func outage(r *request) any {
	return &outageData{get[api.Outage](r, "outage", nil), get[api.Offline](r, "offline", nil)}
}

// jobsData is long work, done once or again and again.
type jobsData struct {
	api.Jobs
	api.Schedules
}

func jobs(r *request) any {
	return &jobsData{get[api.Jobs](r, "jobs", nil), get[api.Schedules](r, "schedules", nil)}
}

// upstreamsData is the registries: those that have been asked, and the others.
type upstreamsData struct{ Asked, Others []api.Upstream }

func upstreams(r *request) any { return r.upstreams() }

func (r *request) upstreams() *upstreamsData {
	d := &upstreamsData{}
	for _, u := range get[api.Upstreams](r, "upstreams", nil).Upstreams {
		if len(u.Hosts) > 0 {
			d.Asked = append(d.Asked, u)
		} else {
			d.Others = append(d.Others, u)
		}
	}
	return d
}

// clientsData is who has pulled, and who has gone around the box.
type clientsData struct {
	api.Clients
	api.Bypasses
	After int
}

func clients(r *request) any {
	after, _ := strconv.Atoi(r.q.Get("after")) // what is no number is the first page
	after = max(after, 0)
	asked := url.Values{"after": {fmt.Sprint(after)}, "limit": {fmt.Sprint(rows)}}
	return &clientsData{get[api.Clients](r, "clients", asked), get[api.Bypasses](r, "bypasses", nil), after}
}

// requestsData is the last requests of clients, the latest first.
type requestsData struct {
	api.Requests
	Client, Image, Result string
	Results               []string
}

var results = []string{"hit", "confirmed", "stale", "miss", "joined", "uncached", "forwarded", "local", "not_found", "refused", "limited", "failed"}

// lastRequests is how many requests are shown.
const lastRequests = 200

func requests(r *request) any {
	all := get[api.Requests](r, "requests", r.asked(lastRequests, "client", "image", "result"))
	slices.Reverse(all.Requests)
	return &requestsData{all, r.q.Get("client"), r.q.Get("image"), r.q.Get("result"), results}
}

// asked returns a query for some rows, with those parameters of the page's own that
// have a value.
func (r *request) asked(limit int, names ...string) url.Values {
	asked := url.Values{"limit": {fmt.Sprint(limit)}}
	for _, name := range names {
		if v := r.q.Get(name); v != "" {
			asked.Set(name, v)
		}
	}
	return asked
}

// nextData is what is evicted next, and what a cache of another size would do.
type nextData struct {
	api.Eviction
	Asked    int64
	Choices  []int64
	Capacity api.Capacity
}

func next(r *request) any {
	const gb = 1_000_000_000
	d := &nextData{Asked: gb, Choices: []int64{gb, 10 * gb, 100 * gb}}
	if n, err := strconv.ParseInt(r.q.Get("bytes"), 10, 64); err == nil && n > 0 {
		d.Asked = n
	}
	d.Eviction = get[api.Eviction](r, "eviction", url.Values{"bytes": {fmt.Sprint(d.Asked)}})
	d.Capacity = get[api.Capacity](r, "capacity", nil)
	return d
}

// setUpData is how clients are configured for this box.
type setUpData struct {
	setup.Box
	Sections []setup.Section
}

func setUp(r *request) any {
	box := r.p.o.Setup(r.host)
	return &setUpData{box, box.Sections()}
}

// helpData is the most frequent mistakes, and what each kind of problem means.
type helpData struct {
	Mistakes []advice.Mistake
	Problems []problems.Kind
}

func help(*request) any { return &helpData{advice.Mistakes(), problems.Kinds()} }

// imagesData is the list of images.
type imagesData struct {
	api.Images
	Q, Registry, State, Sort string // that are asked for
	Registries               []string
	States, Sorts            []option
	After                    bool // it is not the first page
}

// option is a choice of a form.
type option struct{ Value, Text string }

// rows is how many rows a list has on a page.
const rows = 50

var (
	imageStates = []option{{"", "all"}, {"held", "held"}, {"gaps", "with gaps"}, {"pinned", "pinned"}, {"frozen", "frozen"}, {"cooling", "cooling"}}
	imageSorts  = []option{{"used", "last used"}, {"pulls", "most pulled"}, {"size", "largest"}, {"name", "name"}}
)

func images(r *request) any {
	d := &imagesData{Q: r.q.Get("q"), Registry: r.q.Get("registry"), State: r.q.Get("state"), Sort: r.q.Get("sort"), States: imageStates, Sorts: imageSorts, After: r.q.Get("after") != ""}
	for _, u := range get[api.Upstreams](r, "upstreams", nil).Upstreams {
		d.Registries = append(d.Registries, u.Host)
	}
	d.Images = get[api.Images](r, "images", r.asked(rows, "q", "registry", "state", "sort", "after"))
	return d
}

// NextPage returns the path of the next page; empty at the end.
func (d *imagesData) NextPage() string {
	if d.Next == "" {
		return ""
	}
	return string(query("/images", "q", d.Q, "registry", d.Registry, "state", d.State, "sort", d.Sort, "after", d.Next))
}

// imageData is one image.
type imageData struct {
	Ref   string
	Image *api.Image // nil where no client has pulled it
	Tree  *api.Node
	Tag   *api.Tag // nil for a digest
	Lines []api.Line
	Pin   *api.Pin
}

// image shows all that is known of an image. One that no client has pulled may have
// been fetched, pinned or frozen.
func image(r *request) any {
	ref := url.Values{"ref": {r.q.Get("ref")}}
	d := &imageData{Ref: r.q.Get("ref")}
	one, err := ask[api.Image](r, http.MethodGet, "image", ref, nil)
	if err == nil {
		d.Image, d.Ref = &one, one.Ref
	} else if problem(err).Status != http.StatusNotFound {
		r.err = err
		return nil
	}
	if tree, err := ask[api.Node](r, http.MethodGet, "image/tree", ref, nil); err == nil {
		d.Tree = &tree
	}
	if history, err := ask[api.TagHistory](r, http.MethodGet, "image/history", ref, nil); err == nil {
		d.Tag, d.Lines, d.Ref = &history.Tag, history.Lines, history.Tag.Ref
	}
	if d.Image == nil && d.Tree == nil && d.Tag == nil {
		r.err = err
	}
	for _, pin := range get[api.Pins](r, "pins", nil).Pins {
		if pin.Ref == d.Ref {
			d.Pin = &pin
		}
	}
	return d
}
