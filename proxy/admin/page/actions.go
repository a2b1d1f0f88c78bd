package page

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/admin/api"
	"hubcap/proxy/admin/words"
	"hubcap/proxy/units"
)

// The fields that several actions have.
var (
	refField       = field{Name: "ref", Label: "Image", Hint: "As docker writes it: nginx:1.27, ghcr.io/acme/app@sha256:…", Required: true}
	tagField       = field{Name: "ref", Label: "Tag", Hint: "As docker writes it: nginx:1.27", Required: true}
	platformsField = field{Name: "platforms", Label: "Platforms", Hint: "Such as linux/amd64, or all, separated by blanks; empty for those that are pulled here"}
	noteField      = field{Name: "note", Label: "Note", Hint: "Why, for those who come later"}
	forField       = field{Name: "for", Label: "For", Choices: []option{{"", "until it is ended"}, {"86400", "1 day"}, {"604800", "7 days"}, {"2592000", "30 days"}}}
)

// actions is what an operator can do.
var actions = byName(
	&action{Name: "pin", Title: "Pin", Done: "It is pinned.", Fields: []field{refField, platformsField, forField, noteField},
		Means: "A pinned image is never evicted to make room, and what is missing of it is fetched. A tag keeps what it names, also when it moves; a digest keeps that image.",
		run: order("PUT", "pins", words.Pin, func(f *form) any {
			return api.PinRequest{Ref: f.Get("ref"), Platforms: f.platforms(), Until: f.until(), Note: f.Get("note"), DryRun: f.dry}
		})},
	&action{Name: "unpin", Title: "Unpin", Means: "What only this pin keeps may be evicted again.", Done: "It is not pinned any more.", Fields: []field{refField}, run: unpin},
	&action{Name: "warm", Title: "Warm", Done: "They are being fetched.", Shows: "/jobs", Fields: []field{
		{Name: "refs", Label: "Images", Hint: "A reference a line", Required: true, Area: true}, platformsField,
		{Name: "every", Label: "Again", Choices: []option{{"", "once"}, {"3600", "each hour"}, {"86400", "each day"}, {"604800", "each week"}}}},
		Means: "Fetches images whole, so that clients find them here. What is held already is not fetched again.",
		run:   warm},
	&action{Name: "freeze", Title: "Freeze", Done: "It is frozen, or will be once what is missing has been fetched.",
		Fields: []field{tagField, {Name: "digest", Label: "Digest", Hint: "Empty for the present one"}, forField, noteField},
		Means:  "A frozen tag has one digest, wherever it moves at its registry: clients are given it until it is thawed. Pulls by digest do not change.",
		run: order("POST", "image/freeze", words.Tag, func(f *form) any {
			return api.FreezeRequest{Ref: f.Get("ref"), Digest: digest.Digest(f.Get("digest")), Until: f.until(), Note: f.Get("note"), DryRun: f.dry}
		})},
	&action{Name: "rollback", Title: "Roll back", Done: "It is rolled back, or will be once what is missing has been fetched.",
		Fields: []field{tagField, {Name: "to", Label: "Digest", Hint: "Or its beginning; empty for the one that clients were given before"}, forField, noteField},
		Means:  "Freezes a tag to a digest that it named before. Clients are given that one until the tag is thawed.",
		run: order("POST", "image/rollback", words.Tag, func(f *form) any {
			return api.RollbackRequest{Ref: f.Get("ref"), To: f.Get("to"), Until: f.until(), Note: f.Get("note"), DryRun: f.dry}
		})},
	&action{Name: "thaw", Title: "Thaw", Means: "Ends a freeze: the tag follows its registry again. The next client that asks for it is given what its registry names then.",
		Done: "It follows its registry again.", Fields: []field{tagField}, run: order("POST", "image/thaw", words.Tag, tagOrder)},
	&action{Name: "adopt", Title: "Adopt", Means: "Ends a cool-down: the tag moves now. Clients are given the new digest from now on.", Done: "It has moved.", Fields: []field{tagField},
		run: order("POST", "image/adopt", words.Tag, tagOrder)},
	&action{Name: "purge", Title: "Purge", Done: "It is removed.", Shows: "/images", Fields: []field{
		{Name: "ref", Label: "Image", Hint: "As docker writes it; or a repository below"},
		{Name: "repository", Label: "Repositories", Hint: "A pattern of repositories or tags: library/*, ghcr.io/acme/**:pr-*"},
		{Name: "force", Label: "Also what is pinned or frozen", Check: true}},
		Means: "Removes images, and what nothing else needs then. A client that asks for them again has them fetched again.", run: purge},
	&action{Name: "verify", Title: "Verify", Done: "The files are being hashed.", Shows: "/jobs", Fields: []field{{Name: "ref", Label: "Image", Hint: "Empty for all that is held"}},
		Means: "Hashes files, and removes those that are wrong, which are fetched again when they are asked for.",
		run:   order("POST", "verify", nothing[api.Job], func(f *form) any { return api.VerifyRequest{Ref: f.Get("ref")} }),
		would: tell(func(f *form) string {
			return fmt.Sprintf("A job hashes the files of %s", cmp.Or(f.Get("ref"), "all that is held"))
		})},
	&action{Name: "evict", Title: "Make room", Done: "There is more room now.", Shows: "/next",
		Fields: []field{{Name: "bytes", Label: "Bytes", Hint: "At least so many: 20000000000 for 20 GB", Required: true}},
		Means:  "Evicts what is next to go, at once. Clients that ask for it have it fetched again.",
		run:    order("POST", "evict", evicting, func(f *form) any { return api.EvictRequest{Bytes: f.number("bytes", "bytes", 1<<62), DryRun: f.dry} })},
	&action{Name: "repair", Title: "Repair", Means: "Fetches what images lack that would not survive an outage.", Done: "What is missing is being fetched.", Shows: "/outage",
		run: order("POST", "outage/repair", repairing, func(f *form) any { return api.RepairRequest{DryRun: f.dry} })},
	&action{Name: "offline", Title: "Go offline", Done: "No registry is asked now.", Shows: "/outage",
		Fields: []field{{Name: "for", Label: "For", Choices: []option{{"1800", "30 minutes"}, {"7200", "2 hours"}, {"86400", "1 day"}, {"", "until it is ended"}}}},
		Means:  "Asks no registry, as if the line were cut: what is held is served, the rest is refused. The box stays so over a restart.",
		run:    order("PUT", "offline", nothing[api.Offline], func(f *form) any { return api.OfflineRequest{On: true, ForS: f.seconds("for")} }),
		would:  tell(goingOffline)},
	&action{Name: "online", Title: "Go online", Means: "Ends that: registries are asked again.", Done: "Registries are asked again.", Shows: "/outage",
		run:   order("PUT", "offline", nothing[api.Offline], func(*form) any { return api.OfflineRequest{} }),
		would: tell(func(*form) string { return "Registries are asked again from now on" })},
	&action{Name: "cancel", Title: "Cancel", Means: "Ends a job. What it has done stays.", Done: "The job is ended.", Shows: "/jobs",
		Fields: []field{{Name: "id", Label: "Job", Required: true}}, run: end[api.Job]("jobs/"), would: cancelling},
	&action{Name: "unschedule", Title: "End schedule", Done: "The schedule is ended.", Shows: "/jobs", Fields: []field{{Name: "id", Label: "Schedule", Required: true}},
		Means: "The images are not fetched again and again any more. A job that runs goes on.", run: end[api.Schedules]("schedules/"), would: unscheduling},
)

func byName(all ...*action) map[string]*action {
	table := make(map[string]*action)
	for _, a := range all {
		table[a.Name] = a
	}
	return table
}

// form is what is filled in. err is about the first value that is wrong.
type form struct {
	url.Values
	now time.Time
	dry bool
	err error
}

// number returns a field that is a number of something; 0 where it is empty.
func (f *form) number(name, of string, most int64) int64 {
	if f.Get(name) == "" {
		return 0
	}
	n, err := strconv.ParseInt(f.Get(name), 10, 64)
	if (err != nil || n < 0 || n > most) && f.err == nil {
		f.err = &api.Error{Status: http.StatusUnprocessableEntity, Detail: name + " is no number of " + of}
	}
	return n
}

func (f *form) seconds(name string) int64 {
	return f.number(name, "seconds", int64(400*day/time.Second))
}

// until returns when what is set now ends; zero for never.
func (f *form) until() time.Time {
	if n := f.seconds("for"); n > 0 && f.err == nil {
		return f.now.Add(time.Duration(n) * time.Second)
	}
	return time.Time{}
}

// platforms returns what is in the field for platforms.
func (f *form) platforms() []string {
	return strings.FieldsFunc(f.Get("platforms"), func(r rune) bool { return r == ',' || r == ' ' })
}

// order returns a deed of one route. body makes the request; says tells in words what
// is answered.
func order[T any](method, route string, says func(T) []string, body func(f *form) any) deed {
	return func(r *request, f *form) ([]string, bool, error) {
		in := body(f)
		if f.err != nil {
			return nil, false, f.err
		}
		got, err := ask[T](r, method, route, nil, in)
		if err != nil {
			return nil, false, err
		}
		return says(got), worked(got), nil
	}
}

// worked reports whether a job does what was ordered.
func worked(answer any) bool {
	switch a := answer.(type) {
	case api.TagChange:
		return a.Job != nil
	case api.Repair:
		return a.Job != nil
	}
	return false
}

// tell returns a deed that only says what would happen.
func tell(would func(f *form) string) deed {
	return func(_ *request, f *form) ([]string, bool, error) {
		says := []string{would(f)}
		return says, false, f.err
	}
}

// nothing tells nothing of what is done at once.
func nothing[T any](T) []string { return nil }

func tagOrder(f *form) any { return api.TagRequest{Ref: f.Get("ref"), DryRun: f.dry} }

func warm(r *request, f *form) (says []string, _ bool, err error) {
	in := api.WarmRequest{Refs: strings.Fields(f.Get("refs")), Platforms: f.platforms(), EveryS: f.seconds("every"), DryRun: f.dry}
	if f.err != nil {
		return nil, false, f.err
	}
	got, err := ask[api.Warmed](r, http.MethodPost, "warm", nil, in)
	if e := got.Estimate; e != nil {
		says = append(says, words.Fetch(words.CostOf(e)))
		if in.EveryS > 0 {
			says = append(says, "They are fetched again every "+units.Seconds(in.EveryS))
		}
		for _, i := range e.Items {
			says = append(says, i.Name+": "+i.Result)
		}
	}
	return says, false, err
}

func repairing(plan api.Repair) []string {
	cost := api.Cost{Objects: plan.Objects, Bytes: plan.Bytes, Unknown: plan.Unknown}
	for _, one := range plan.Pulls {
		cost.Pulls += one.Pulls
	}
	return append(words.Repair("This", plan), words.Fetch(cost))
}

func goingOffline(f *form) string {
	if n := f.seconds("for"); n > 0 {
		return fmt.Sprintf("No registry is asked for %s", units.Seconds(n))
	}
	return "No registry is asked until that is ended"
}

func unpin(r *request, f *form) (says []string, _ bool, err error) {
	left, err := ask[api.Pins](r, http.MethodDelete, "pins", url.Values{"ref": {f.Get("ref")}, "dry_run": {fmt.Sprint(f.dry)}}, nil)
	if f.dry {
		says = words.Unpin(left)
	}
	return says, false, err
}

// purge shows the form until something is named.
func purge(r *request, f *form) ([]string, bool, error) {
	in := api.PurgeRequest{Ref: f.Get("ref"), Repository: f.Get("repository"), Force: f.Get("force") != "", DryRun: f.dry}
	if f.dry && in.Ref+in.Repository == "" {
		return nil, false, nil
	}
	gone, err := ask[api.Purged](r, http.MethodPost, "purge", nil, in)
	return words.Purge(gone), false, err
}

// end returns a deed that ends one of what a route has, by its id.
func end[T any](route string) deed {
	return func(r *request, f *form) ([]string, bool, error) {
		_, err := ask[T](r, http.MethodDelete, route+url.PathEscape(f.Get("id")), nil, nil)
		return nil, false, err
	}
}

func cancelling(r *request, f *form) ([]string, bool, error) {
	j, err := ask[api.Job](r, http.MethodGet, "jobs/"+url.PathEscape(f.Get("id")), nil, nil)
	return []string{fmt.Sprintf("The job ends: %s, %s. %s is done", j.Kind, j.What, units.BytesOf(j.Done, j.Total))}, false, err
}

func unscheduling(r *request, f *form) ([]string, bool, error) {
	all, err := ask[api.Schedules](r, http.MethodGet, "schedules", nil, nil)
	for _, s := range all.Schedules {
		if s.ID == f.Get("id") {
			return []string{fmt.Sprintf("Not fetched every %s any more: %s", units.Seconds(s.Every), strings.Join(s.Refs, ", "))}, false, nil
		}
	}
	return nil, false, cmp.Or(err, error(&api.Error{Status: http.StatusNotFound, Detail: "there is no such schedule"}))
}

// evicting tells what would be evicted.
func evicting(e api.Eviction) []string { return words.Evict(e, "would go", "would") }
