package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// install compiles the standard library and our packages, and keeps their archives in a directory,
// so that a cell needs no more than the compiler and the linker. GO_COMMAND is the go to use, and
// KERNELAGENT_GO_PACKAGES where our packages' sources are.
func install(directory string) error {
	command := os.Getenv("GO_COMMAND")
	sources := os.Getenv("KERNELAGENT_GO_PACKAGES")
	if command == "" || sources == "" {
		return errors.New("GO_COMMAND and KERNELAGENT_GO_PACKAGES must be set")
	}
	said, err := output(exec.Command(command, "env", "GOROOT", "GOVERSION"))
	if err != nil {
		return err
	}
	root, goVersion, _ := strings.Cut(strings.TrimSpace(said), "\n")
	t := &toolchain{directory: directory, Root: root, Version: goVersion}
	said, err = output(exec.Command(command, "list", "-export", "-f",
		"{{.ImportPath}}\t{{.Export}}", "std"))
	if err != nil {
		return err
	}
	archives := map[string]string{}
	packages := filepath.Join(directory, "archives")
	if err := os.MkdirAll(packages, 0o755); err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(said), "\n") {
		name, archive, _ := strings.Cut(line, "\t")
		if archive == "" {
			continue
		}
		kept := filepath.Join(packages, strings.ReplaceAll(name, "/", "!")+".a")
		if err := keep(archive, kept); err != nil {
			return err
		}
		archives[name] = kept
	}
	config := filepath.Join(directory, archivesFile)
	// In the order in which they need each other.
	for _, name := range []string{"channel", "display", "session"} {
		if err := writeArchives(config, archives); err != nil {
			return err
		}
		archive := filepath.Join(packages, "kernelagent!"+name+".a")
		files, err := filepath.Glob(filepath.Join(sources, name, "*.go"))
		if err != nil {
			return err
		}
		arguments := []string{"-p", "kernelagent/" + name, "-complete", "-pack", "-trimpath",
			sources + "=>kernelagent", "-importcfg", config, "-o", archive}
		if _, err := output(exec.Command(t.tool("compile"), append(arguments, files...)...)); err != nil {
			return err
		}
		archives["kernelagent/"+name] = archive
	}
	if err := writeArchives(config, archives); err != nil {
		return err
	}
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(directory, "toolchain.json"), data, 0o644)
}

func output(command *exec.Cmd) (string, error) {
	said, err := command.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s: %w: %s%s", strings.Join(command.Args[:2], " "), err, said, exit.Stderr)
	}
	return string(said), err
}

// keep links or copies a file of the build cache, which throws old files away.
func keep(from, to string) error {
	if err := os.Remove(to); err != nil && !os.IsNotExist(err) {
		return err
	}
	if os.Link(from, to) == nil {
		return nil
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
