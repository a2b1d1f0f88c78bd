package page

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/units"
)

// nowData is the first page.
type nowData struct {
	Figures   []figure
	Fills     []api.Fill
	Chart     *chart
	Upstreams *upstreamsData
	Lists     []topList
}

// figure is a number that an operator asks for first.
type figure struct {
	Name, Value, Note string
	Path              string // of the page with more of it
	Spark             string // points of a line through the last 30 days; empty for none
}

// topList is the first images of an order.
type topList struct {
	Title, Sort string
	Images      []api.Image
}

const (
	shortList   = 5
	sparkHeight = 20
)

func now(r *request) any {
	status, days := get[api.Status](r, "status", nil), r.series(spans["30d"])
	d := &nowData{Figures: figures(&status, days), Chart: r.chart(), Fills: get[api.Fills](r, "fills", nil).Fills, Upstreams: r.upstreams()}
	for _, list := range []topList{{Title: "Most pulled", Sort: "pulls"}, {Title: "Last used", Sort: "used"}, {Title: "Largest", Sort: "size"}} {
		list.Images = get[api.Images](r, "images", url.Values{"sort": {list.Sort}, "limit": {fmt.Sprint(shortList)}}).Images
		d.Lists = append(d.Lists, list)
	}
	return d
}

// figures are the five figures, each the answer to a question: is it worth it; when
// does a registry refuse pulls; what if the line is cut; does anybody go around the
// box; is the disk large enough.
func figures(s *api.Status, days []bucket) []figure {
	t := s.Today
	saved := figure{
		Name: "saved today", Value: units.Bytes(t.BytesSaved), Path: "/requests",
		Note:  fmt.Sprintf("%s of what clients pulled", units.Percent(units.Ratio(t.BytesSaved, t.BytesOut))),
		Spark: spark(days, func(b bucket) (float64, bool) { return float64(b.Cached), true }),
	}
	if t.BytesOut == 0 {
		saved.Note = "no client has pulled today"
	}
	around := figure{Name: "around the box", Value: "nobody", Note: "in the last day", Path: "/clients"}
	left := 0
	for _, n := range s.Clients.LeftDay {
		left += n
	}
	if left > 0 {
		around.Value, around.Note = units.Count(left, "host"), families(s.Clients.LeftDay)+" in the last day"
	}
	disk := figure{
		Name: "disk", Value: units.BytesOf(s.Disk.Used, s.Disk.Budget), Path: "/next",
		Note:  fmt.Sprintf("%s, %s", units.Percent(units.Ratio(s.Disk.Used, s.Disk.Budget)), units.Count(s.Disk.Objects, "object")),
		Spark: spark(days, func(b bucket) (float64, bool) { v, ok := b.values["cache_bytes"]; return v, ok }),
	}
	return []figure{saved, limitFigure(s.Limits, days), outageFigure(s.Outage), around, disk}
}

// limitFigure shows the pull limit of which the smallest share is left.
func limitFigure(limits []api.Limit, days []bucket) figure {
	f := figure{Name: "pull limit", Value: "none", Note: "no registry has stated one", Path: "/upstreams"}
	var least *api.Limit
	for i, l := range limits {
		if l.Remaining >= 0 && (least == nil || share(l) < share(*least)) {
			least = &limits[i]
		}
	}
	if least == nil {
		return f
	}
	f.Name = registryName(least.Upstream)
	f.Value, f.Note = fmt.Sprintf("%d of %d", least.Remaining, least.Limit), "pulls left"
	if least.Limit < 0 {
		f.Value = fmt.Sprint(least.Remaining)
	}
	if least.LastsS != nil {
		f.Note += ", at this pace for " + units.Seconds(*least.LastsS)
	}
	series := "pulls_left/" + least.Upstream + "/" + least.Identity
	f.Spark = spark(days, func(b bucket) (float64, bool) { v, ok := b.values[series]; return v, ok })
	return f
}

// share is how much of a pull limit is left, 0 to 1.
func share(l api.Limit) float64 { return float64(l.Remaining) / float64(max(l.Limit, 1)) }

func registryName(host string) string {
	if host == "docker.io" {
		return "Docker Hub"
	}
	return host
}

// outageFigure shows how many images would survive an outage.
func outageFigure(o api.OutageSummary) figure {
	f := figure{Name: "in an outage", Value: fmt.Sprintf("%d of %d ready", o.Ready, o.Images), Note: "nothing is missing", Path: "/outage"}
	switch {
	case o.Checked.IsZero():
		f.Value, f.Note = "not known yet", "images are being looked at"
	case o.Images == 0:
		f.Value, f.Note = "nothing yet", fmt.Sprintf("no image was pulled in %s", units.Count(o.Days, "day"))
	case o.Ready < o.Images:
		f.Note = units.Bytes(o.Missing) + " missing"
	}
	return f
}

// Sentence says how the box is where there is no problem.
func (v *view) Sentence() string {
	s := v.Status
	parts := []string{"All is well."}
	if s.Offline {
		parts[0] = "The box is offline: no registry is asked."
	}
	if s.Clients.Day == 0 {
		return parts[0] + " No client has come in the last day."
	}
	parts = append(parts, units.Count(s.Clients.Day, "client")+" in the last day.", units.Bytes(s.Today.BytesSaved)+" saved today.")
	return strings.Join(parts, " ")
}

// upper begins a sentence.
func upper(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// families describes how many clients of each family there are: buildkit 1, docker 2.
func families(count map[string]int) string {
	var all []string
	for _, family := range slices.Sorted(maps.Keys(count)) {
		all = append(all, fmt.Sprintf("%s %d", family, count[family]))
	}
	return strings.Join(all, ", ")
}
