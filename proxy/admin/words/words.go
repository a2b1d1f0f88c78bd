// Package words tells what the API answers in words, for page and commands alike: a
// state, a cost, what an order does. It knows the API's types, and nothing of a box.
//
// Where there is nothing to tell, the text is empty. What an order does is told in
// parts: the page lists them, a command makes one sentence of them.
//
// Files: words.go (states), orders.go (what orders do).
package words

import (
	"fmt"
	"strings"
	"time"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/units"
)

// Moment is a present time, in the zone in which times are told.
type Moment struct{ Now time.Time }

// Ago returns how long a time is past.
func (m Moment) Ago(t time.Time) string { return units.Ago(t, m.Now) }

// Clock returns a time as a clock shows it, without the date if that is today.
func (m Moment) Clock(t time.Time) string { return units.Clock(t, m.Now) }

// Since returns for how long something has been so.
func (m Moment) Since(t time.Time) string { return units.Duration(m.Now.Sub(t)) }

// Limit returns what is left of a pull limit: 18 of 100 left.
func Limit(l *api.Limit) string {
	switch {
	case l == nil || l.Remaining < 0:
		return ""
	case l.Limit < 0:
		return units.Count(l.Remaining, "pull") + " left"
	}
	return fmt.Sprintf("%d of %d left", l.Remaining, l.Limit)
}

// From says where a download comes from.
func From(f api.Fill) string {
	from := strings.Trim(f.Host+"/"+f.Repository, "/")
	if f.Place == "" {
		return from
	}
	place := map[string]string{"peer": "another box", "s3": "the bucket", "sister": "a box of another site"}[f.Place]
	return from + ", from " + place
}

// Credentials describes how the box's credentials for a registry do.
func Credentials(c *api.Credentials) string {
	switch {
	case c == nil:
		return ""
	case c.Refused:
		return "refused"
	case c.Failure != "":
		return "not available: " + c.Failure
	case !c.Usable:
		return "not used"
	}
	return "in use"
}

// Fails says which hosts of a registry are not asked at present, and why.
func (m Moment) Fails(u api.Upstream) string {
	if u.Offline {
		return "offline: not asked"
	}
	var all []string
	for _, h := range u.Hosts {
		if !h.LimitedUntil.IsZero() {
			all = append(all, fmt.Sprintf("%s limits pulls until %s", h.Host, m.Clock(h.LimitedUntil)))
		}
		if h.Circuit != "closed" && !h.Since.IsZero() {
			all = append(all, fmt.Sprintf("%s since %s: %s", h.Host, m.Clock(h.Since), h.Failure))
		}
	}
	return strings.Join(all, "; ")
}

// SiteBox says how a box that shares what it holds does.
func (m Moment) SiteBox(b api.SiteBox) string {
	text := b.State
	switch {
	case !b.Until.IsZero():
		text = "is not asked until " + m.Clock(b.Until) + ": " + b.Why
	case !b.Since.IsZero():
		text += " since " + m.Clock(b.Since) + ": " + b.Why
	}
	if b.Wrong != "" {
		text += "; " + b.Wrong
	}
	return text
}

// Tag says whether and why a tag follows its registry or not.
func (m Moment) Tag(t api.Tag) string {
	text := string(t.State)
	if f := t.Frozen; f != nil {
		text += " since " + m.Clock(f.Since)
		if !f.Until.IsZero() {
			text += " until " + m.Clock(f.Until)
		}
		if f.By != "" {
			text += " by " + f.By
		}
		if f.Note != "" {
			text += ": " + f.Note
		}
		if !f.Deleted.IsZero() {
			text += "; deleted at the registry " + m.Ago(f.Deleted)
		}
	}
	if moved := t.Moved; moved != nil {
		text += fmt.Sprintf("; %s at the registry since %s", units.Digest(moved.Digest), m.Clock(moved.Since))
		if !moved.Until.IsZero() {
			text += ", is taken over " + m.Clock(moved.Until)
		}
	}
	return text
}

// Why says why something of an image is missing, and since when, if that is known.
func (m Moment) Why(g api.Gap) string {
	if g.At.IsZero() {
		return string(g.Why)
	}
	return string(g.Why) + " " + m.Ago(g.At)
}

// Request returns the name of what a request was for, its digest shortened.
func Request(r api.Request) string {
	if r.Tag == "" && r.Digest != "" {
		return r.Registry + "/" + r.Repository + "@" + units.Digest(r.Digest)
	}
	return r.Image()
}

// Took returns a number of seconds with its unit.
func Took(seconds float64) string {
	if seconds < 1 {
		return fmt.Sprintf("%.0f ms", seconds*1000)
	}
	return fmt.Sprintf("%.1f s", seconds)
}
