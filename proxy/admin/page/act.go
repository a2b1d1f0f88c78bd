package page

import (
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"hubcap/proxy/admin/api"
)

// action is something that the page does for an operator: a form, what will happen,
// and then the deed.
type action struct {
	Name   string // in the path
	Title  string // of the form, and of the button that leads to it
	Means  string // what it does, in a sentence or two
	Done   string // that it is done
	Shows  string // path of the page that shows it; empty for that of the image, or of a job that does it
	Fields []field
	run    deed
	would  deed // tells what would happen; nil where run does so in a dry run
}

// deed does an action, or in a dry run says in words what would happen. job is true
// where a job does it.
type deed func(r *request, f *form) (says []string, job bool, err error)

// field is a field of an action's form.
type field struct {
	Name, Label, Hint string
	Required          bool
	Choices           []option // of a choice; else it is a text
	Check             bool     // it is a box to tick
	Area              bool     // a text of several lines
}

// act is the page of an action.
type act struct {
	*action
	Form  url.Values
	Ready bool // all that is required is there
	Says  []string
}

// Value returns what is in a field.
func (a *act) Value(name string) string { return a.Form.Get(name) }

// Given returns the fields of the form that are filled in.
func (a *act) Given() (all []link) {
	for _, f := range a.Fields {
		if v := a.Form.Get(f.Name); v != "" {
			all = append(all, link{f.Name, v})
		}
	}
	return all
}

// plan answers GET /do/…: the form, and what will happen once it is filled in.
func (p *Page) plan(w http.ResponseWriter, r *http.Request) {
	a, ok := p.action(w, r)
	if !ok {
		return
	}
	p.showAct(w, r, &act{action: a, Form: r.URL.Query()}, nil)
}

// showAct shows the page of an action; refused is why it was not done, nil where it
// was not tried.
func (p *Page) showAct(w http.ResponseWriter, r *http.Request, one *act, refused error) {
	v := p.view(r, "act")
	v.Data = one
	one.Ready = !slices.ContainsFunc(one.Fields, func(f field) bool { return f.Required && strings.TrimSpace(one.Form.Get(f.Name)) == "" })
	if one.Ready && refused == nil {
		does := one.run
		if one.would != nil {
			does = one.would
		}
		one.Says, _, refused = does(p.request(r), &form{Values: one.Form, now: p.o.Now(), dry: true})
	}
	if refused != nil {
		v.Error = problem(refused)
	}
	one.Ready = one.Ready && v.Error == nil && len(one.Says) > 0
	p.render(w, v)
}

// do answers POST /do/…: it does it, and leads to the page that shows it.
func (p *Page) do(w http.ResponseWriter, r *http.Request) {
	a, ok := p.action(w, r)
	if !ok {
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		p.fail(w, r, &api.Error{Status: http.StatusBadRequest, Detail: "the form cannot be read: " + err.Error()})
		return
	}
	_, job, err := a.run(p.request(r), &form{Values: r.PostForm, now: p.o.Now()})
	if err != nil {
		p.showAct(w, r, &act{action: a, Form: r.PostForm}, err)
		return
	}
	to := a.Shows
	if job {
		to = "/jobs"
	}
	if to != "" {
		to = string(query(to, "done", a.Name))
	} else {
		to = string(query("/image", "ref", r.PostForm.Get("ref"), "done", a.Name))
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

const maxForm = 1 << 20 // bytes

// action returns the action that a request names; ok is false where it was refused.
func (p *Page) action(w http.ResponseWriter, r *http.Request) (a *action, ok bool) {
	refused := &api.Error{Status: http.StatusForbidden, Detail: "with this token or link one may only look"}
	if p.o.MayAct(r.Context()) {
		refused = &api.Error{Status: http.StatusNotFound, Detail: "there is no such action"}
		a = actions[r.PathValue("action")]
	}
	if a == nil {
		p.fail(w, r, refused)
	}
	return a, a != nil
}

// button returns a link to the form of an action, with fields that are filled in.
func button(name string, pairs ...any) (template.HTML, error) {
	a, ok := actions[name]
	if !ok {
		return "", fmt.Errorf("no action %q", name)
	}
	path := template.HTMLEscapeString(string(query("/do/"+name, pairs...)))
	return template.HTML(`<a class="button" href="` + path + `">` + template.HTMLEscapeString(a.Title) + `</a>`), nil //nolint:gosec // both are escaped
}

// query returns a path with a query of names and values.
func query(path string, pairs ...any) template.URL {
	q := make(url.Values)
	for i := 0; i+1 < len(pairs); i += 2 {
		if v := fmt.Sprint(pairs[i+1]); v != "" {
			q.Set(fmt.Sprint(pairs[i]), v)
		}
	}
	if len(q) == 0 {
		return template.URL(path) //nolint:gosec // a constant of the templates
	}
	return template.URL(path + "?" + q.Encode()) //nolint:gosec // encoded
}
