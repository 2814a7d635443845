package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// toolchain is what install has made in a directory.
type toolchain struct {
	directory string
	Root      string   `json:"root"`
	Version   string   `json:"version"`
	Packages  []string `json:"packages"`
	// Where the packages' archives are, by path.
	archives map[string]string
	names    map[string]string
	set      *token.FileSet
	importer types.Importer
}

const archivesFile = "importcfg"

func openToolchain(directory string) (*toolchain, error) {
	data, err := os.ReadFile(filepath.Join(directory, "toolchain.json"))
	if err != nil {
		return nil, err
	}
	t := &toolchain{directory: directory, set: token.NewFileSet()}
	if err := json.Unmarshal(data, t); err != nil {
		return nil, err
	}
	t.archives, err = readArchives(filepath.Join(directory, archivesFile))
	if err != nil {
		return nil, err
	}
	t.names = byName(slices.Sorted(maps.Keys(t.archives)))
	t.importer = newImporter(t.set, t.archives)
	return t, nil
}

func newImporter(set *token.FileSet, archives map[string]string) types.Importer {
	return importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) {
		archive, ok := archives[path]
		if !ok {
			return nil, fmt.Errorf("package %s is not there", path)
		}
		return os.Open(archive)
	})
}

func readArchives(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	found := map[string]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		rest, _ := strings.CutPrefix(lines.Text(), "packagefile ")
		if name, archive, ok := strings.Cut(rest, "="); ok {
			found[name] = archive
		}
	}
	return found, lines.Err()
}

func writeArchives(path string, archives map[string]string) error {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(archives)) {
		fmt.Fprintf(&text, "packagefile %s=%s\n", name, archives[name])
	}
	return os.WriteFile(path, []byte(text.String()), 0o644)
}

func (t *toolchain) tool(name string) string {
	return filepath.Join(t.Root, "pkg", "tool", runtime.GOOS+"_"+runtime.GOARCH, name)
}

func (t *toolchain) goCommand() string {
	return filepath.Join(t.Root, "bin", "go")
}

// environment is for the tools: what would make programs that cannot run here is left out.
func (t *toolchain) environment(env map[string]string) []string {
	settings := maps.Clone(env)
	for _, name := range []string{"GOOS", "GOARCH", "GOEXPERIMENT", "GOROOT", "GOBIN"} {
		delete(settings, name)
	}
	settings["GOTOOLCHAIN"] = "local"
	if settings["CGO_ENABLED"] == "" {
		settings["CGO_ENABLED"] = "0"
	}
	if settings["HOME"] == "" && settings["GOCACHE"] == "" {
		settings["GOCACHE"] = filepath.Join(os.TempDir(), fmt.Sprintf("go-build-%d", os.Getuid()))
		settings["GOPATH"] = filepath.Join(os.TempDir(), fmt.Sprintf("go-path-%d", os.Getuid()))
	}
	return environ(settings)
}

func environ(settings map[string]string) []string {
	list := make([]string, 0, len(settings))
	for name, value := range settings {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list
}
